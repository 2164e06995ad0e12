"""TextCraft: its recipes, its planner, its rules and what its trivial strategies reach."""

from __future__ import annotations

from collections import Counter

import pytest

from agentforge.environments.registry import make
from agentforge.environments.textcraft.environment import TextCraft
from agentforge.environments.textcraft.planner import plan
from agentforge.environments.textcraft.recipes import Recipe, RecipeBook, load_recipes
from agentforge.errors import UserError
from tests.environments.playing import baseline, expert, play, same_in_every_process, success_rate

SHORT = {"style": "short", "distractors": 2, "max_depth": 2, "max_turns": 12}


@pytest.fixture(scope="module")
def game() -> TextCraft:
    environment = make("agentgym:textcraft")
    assert isinstance(environment, TextCraft)
    return environment


def start(game: TextCraft, goal: str) -> str:
    return game.reset(0, game.goals.index(goal))


def test_the_book_has_no_cycle_and_an_ingot_is_found_not_made() -> None:
    book = load_recipes()
    assert len(book.goals()) == 544
    for goal in book.goals():
        below = {part for recipe in book.recipes[goal] for name, _ in recipe.inputs for part in book.below(name)}
        assert goal not in below
    assert book.is_raw("iron ingot")
    assert book.recipes["iron nugget"] == [Recipe("iron nugget", 9, (("iron ingot", 1),))]


def test_a_recipe_that_closes_a_cycle_through_a_kind_is_left_out() -> None:
    there = Recipe("red wool", 1, (("thread", 4),))
    back = Recipe("thread", 4, (("wool", 1),))
    assert RecipeBook([there, back], {"red wool": "wool"}).recipes == {"red wool": [there]}
    assert RecipeBook([back, there], {"red wool": "wool"}).recipes == {"thread": [back]}


def test_depths_by_hand() -> None:
    book = load_recipes()
    assert [book.depth(name) for name in ("oak logs", "oak planks", "planks", "crafting table")] == [0, 1, 1, 2]
    depths = [book.depth(goal) for goal in book.goals()]
    assert Counter(depths) == {1: 148, 2: 273, 3: 112, 4: 11}
    assert depths == sorted(depths)


def test_expert_solves_every_goal_without_an_invalid_action(game: TextCraft) -> None:
    for task in range(game.tasks):
        steps = play(game, expert, task)
        assert steps[-1].info["success"], game.goals[task]
        assert steps[-1].terminated
        assert all(step.info["valid_action"] for step in steps)
        assert sum(step.reward for step in steps) == 1


def test_plans_use_what_is_there_and_recover_from_waste(game: TextCraft) -> None:
    assert plan(game.book, "crafting table", {"birch planks": 4}) == ["craft 1 crafting table using 4 birch planks"]
    start(game, "crafting table")
    for action in ("get 2 oak logs", "craft 4 oak planks using 1 oak logs", "get 7 flint"):
        assert game.step(f"Action: {action}").info["valid_action"]
    assert game.expert() == "Action: craft 1 crafting table using 4 oak planks"


def test_an_episode_by_hand(game: TextCraft) -> None:
    observation = start(game, "crafting table")
    assert "Goal: craft crafting table." in observation
    assert "craft 1 crafting table using 4 planks" in observation.splitlines()
    said = [
        ("Action: get 1 oak planks", False, "has to be crafted"),
        ("Action: get 1 planks", False, "of which one is acacia planks"),
        ("Action: get 1 unicorn", False, "could not find unicorn"),
        ("Action: craft 4 oak planks using 1 oak logs", False, "you have 0 oak logs, not 1"),
        ("Thought: hm\nAction: Get 2 oak logs.", True, "Got 2 oak logs"),
        ("Action: craft 4 oak planks using 1 oak logs", True, "Crafted 4 oak planks"),
        ("Action: inventory", True, "Inventory: [oak logs] (1) [oak planks] (4)"),
        ("Action: craft 1 crafting table using 3 oak planks", False, "exactly these amounts"),
        ("Action: craft 1 crafting table using oak planks", False, "no amount and item"),
        ("Action: dance", False, "an action is one of get N ITEM"),
        ("I would like a table", False, "no line `Action: ...`"),
    ]
    for text, valid, words in said:
        step = game.step(text)
        assert (step.info["valid_action"], step.reward, step.terminated, step.info["success"]) == (
            valid,
            0,
            False,
            False,
        )
        assert words in step.observation
        assert valid or words in step.info["problem"]
    step = game.step("Action: craft 1 crafting table using 4 oak planks")
    assert (step.reward, step.terminated, step.info["success"]) == (1, True, True)
    with pytest.raises(RuntimeError, match="over"):
        game.step("Action: inventory")


def test_a_tool_call_is_the_same_action(game: TextCraft) -> None:
    start(game, "bucket")
    call = '<tool_call>\n{"name": "act", "arguments": {"action": "get 3 iron ingot"}}\n</tool_call>'
    assert game.step(call).observation == "Got 3 iron ingot"
    assert game.action_tool["function"]["name"] == "act"


def test_invalid_actions_use_up_turns() -> None:
    game = TextCraft(max_turns=3)
    assert [step.truncated for step in play(game, lambda _: "no", 0)] == [False, False, True]


def test_trivial_strategies_fail_where_more_than_one_recipe_is_needed(game: TextCraft) -> None:
    levels = [[t for t in range(game.tasks) if game.difficulty(t) == level][:40] for level in range(4)]
    assert [success_rate(game, baseline("one_recipe"), level) for level in levels] == [1, 0, 0, 0]
    chance = [success_rate(game, baseline("random"), level) for level in levels]
    assert chance[0] > chance[1] > chance[2] >= chance[3]
    assert chance[2] < 0.3


def test_short_observations_are_short_and_can_be_followed_to_the_letter() -> None:
    game = TextCraft(**SHORT)
    for task in range(0, game.tasks, 7):
        observation = game.reset(3, task)
        assert len(observation) < 350
        lines = observation.splitlines()
        assert lines[-1] == f"Goal: {game.goals[task]}"
        while (said := game.expert()) is not None:
            action = said.removeprefix("Action: ")
            assert action.startswith("get ") or action in lines
            if game.step(said).terminated:
                break


def test_ids_of_goals_do_not_depend_on_options(game: TextCraft) -> None:
    assert TextCraft(**SHORT).goals == game.goals[:421]


def test_the_seed_draws_recipes_and_nothing_else(game: TextCraft) -> None:
    first, again, other = game.reset(0, 300), game.reset(0, 300), game.reset(1, 300)
    assert first == again != other
    assert first.splitlines()[-1] == other.splitlines()[-1]


def test_same_episode_whatever_the_hash_seed() -> None:
    assert same_in_every_process("agentgym:textcraft", {}, [0, 150, 300, 543])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_depth": 0}, "max_depth must be a whole number, 1 or more, not 0"),
        ({"distractors": -1}, "distractors must be a whole number, 0 or more, not -1"),
        ({"style": "long"}, "style is full or short, not 'long'"),
        ({"max_turns": 0}, "max_turns must be a whole number, 1 or more, not 0"),
        ({"depth": 2}, "has no option 'depth'; did you mean 'max_depth'?"),
    ],
)
def test_bad_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=r"agentgym:textcraft") as caught:
        make("agentgym:textcraft", options)
    assert words in str(caught.value)


def test_no_such_task_and_no_such_baseline(game: TextCraft) -> None:
    with pytest.raises(UserError, match="tasks 0 to 543 with these options, not 544"):
        game.reset(0, 544)
    with pytest.raises(UserError, match="no baseline 'best'"):
        play(game, baseline("best"), 0)
