"""BabyAI: what is seen, what can be done, the bot as an expert, and nothing on stdout."""

from __future__ import annotations

from statistics import mean

import pytest

from agentforge.environments.babyai.environment import BabyAI
from agentforge.environments.babyai.levels import DEFAULT, DIFFICULTY
from agentforge.environments.registry import make
from agentforge.environments.splits import split_of
from agentforge.errors import UserError
from tests.environments.playing import baseline, expert, play, same_in_every_process, success_rate


@pytest.fixture(scope="module")
def game() -> BabyAI:
    environment = make("agentgym:babyai")
    assert isinstance(environment, BabyAI)
    return environment


def test_expert_fulfils_the_missions_of_the_default_levels(game: BabyAI) -> None:
    episodes = [play(game, expert, task) for task in range(len(DEFAULT))]
    failed = [game.levels[task] for task, steps in enumerate(episodes) if not steps[-1].info["success"]]
    assert len(failed) <= 2, failed
    assert all(step.info["valid_action"] for steps in episodes for step in steps)
    assert mean(map(len, episodes)) < 7


def test_expert_plays_with_primitive_actions_too() -> None:
    game = BabyAI(levels=["GoToLocal", "PutNextLocal", "UnlockPickup"], actions="primitive", max_turns=100)
    for task in range(6):
        steps = play(game, expert, task)
        assert steps[-1].info["success"]
        assert steps[-1].reward == pytest.approx(1 - 0.9 * len(steps) / game.env.max_steps)


def test_the_reward_counts_every_step_of_a_walk() -> None:
    game = BabyAI(levels=["GoToObj"])
    steps = play(game, expert, 2)
    assert game.env.step_count > len(steps)
    assert steps[-1].reward == pytest.approx(1 - 0.9 * game.env.step_count / game.env.max_steps)
    assert [step.reward for step in steps[:-1]] == [0.0] * (len(steps) - 1)


def test_what_is_told_is_what_minigrid_shows(game: BabyAI) -> None:
    for task in range(0, 40, 3):
        game.reset(0, task)
        unwrapped = game.env
        for thing in game.view.things:
            cell = unwrapped.grid.get(*thing.cell)
            assert (cell.color, cell.type) == (thing.colour, thing.kind)
            assert unwrapped.agent_sees(*thing.cell)
        ahead = [thing for thing in game.view.things if (thing.ahead, thing.right) == (1, 0)]
        for thing in ahead:
            assert thing.cell == tuple(unwrapped.front_pos)


def test_a_walk_ends_facing_the_object() -> None:
    game = BabyAI(levels=["OneRoomS12"])
    walked = 0
    for task in range(60):
        game.reset(0, task)
        for thing in game.view.things:
            game.reset(0, task)
            if f"go to {thing.name}" in game.available() and not game.step(f"Action: go to {thing.name}").terminated:
                assert tuple(game.env.front_pos) == thing.cell
                walked += 1
    assert walked > 10


def test_an_episode_by_hand() -> None:
    game = BabyAI(levels=["UnlockPickup"])
    observation = game.reset(0, 0)
    assert observation.startswith("Your goal: pick up the ")
    assert "Available actions: turn left, turn right" in observation
    before = game.env.step_count
    said = {
        "Action: fly": "an action is one of turn left",
        "I look around": "no line `Action: ...`",
        "Action: go to green dragon 1": "you see no green dragon 1",
        "Action: drop": "'drop' would do nothing here",
    }
    for text, words in said.items():
        step = game.step(text)
        assert (step.info["valid_action"], step.reward, step.info["success"]) == (False, 0.0, False)
        assert words in step.observation
    assert game.env.step_count == before


def test_one_thing_is_carried_at_a_time() -> None:
    game = BabyAI(levels=["PutNextLocal"])
    task = next(task for task in range(50) if game.reset(0, task) and len(game.view.things) > 4)
    game.reset(0, task)
    first, *others = [thing.name for thing in game.view.things]
    assert f"You carry a {first[:-2]}." in game.step(f"Action: pickup {first}").observation
    seen = next(thing.name for thing in game.view.things if thing.name in others)
    assert "drop it first" in game.step(f"Action: pick up {seen}").info["problem"]
    assert f"pick up {seen}" not in game.available()


def test_a_door_says_why_it_stays_shut() -> None:
    game = BabyAI(levels=["UnlockLocal"], max_turns=50)
    game.reset(0, 1)
    while not (doors := [thing for thing in game.view.things if thing.state == "locked"]):
        game.step("Action: turn left")
    assert "is locked and you carry no" in game.step(f"Action: toggle and go through {doors[0].name}").observation
    assert "is locked" in game.step(f"Action: go through {doors[0].name}").observation


def test_primitive_actions_know_no_walks() -> None:
    game = BabyAI(levels=["GoToObj"], actions="primitive")
    game.reset(0, 0)
    assert not [action for action in game.available() if "go to" in action]
    assert not game.step(f"Action: go to {game.view.things[0].name}" if game.view.things else "Action: go to x").info[
        "valid_action"
    ]


def test_short_observations_are_short() -> None:
    game = BabyAI(levels=["GoToLocal"], style="short")
    observations = [game.reset(0, task) for task in range(20)]
    assert max(len(text) for text in observations) < 350
    assert all(text.startswith("Mission: go to ") for text in observations)


def test_trivial_strategies_are_far_from_the_expert() -> None:
    game = BabyAI(levels=["PutNextLocal", "PickupLoc", "OpenRedBlueDoors"])
    assert success_rate(game, baseline("random"), range(24)) < 0.5
    assert success_rate(game, baseline("nearest"), range(24)) < 0.5


def test_a_task_is_the_same_level_and_layout_whatever_the_list_of_levels(game: BabyAI) -> None:
    one = BabyAI(levels=[game.levels[30]])
    assert one.reset(0, 30) == game.reset(5, 30)


def test_no_layout_is_in_both_splits() -> None:
    game = BabyAI(levels=["GoToObjS4"])  # so small that draws repeat
    shown: dict[str, set[str]] = {"train": set(), "eval": set()}
    for task in range(600):
        game.reset(0, task)
        layout = f"{game.env.mission}{game.env.agent_pos}{game.env.agent_dir}{game.env.grid.encode().tolist()}"
        shown[split_of(game.id, task)].add(layout)
    assert sum(map(len, shown.values())) < 550
    assert not shown["train"] & shown["eval"]


def test_difficulty_is_that_of_the_level(game: BabyAI) -> None:
    assert [game.difficulty(task) for task in (0, len(DEFAULT) - 1, len(DEFAULT))] == [0, 3, 0]
    assert set(DIFFICULTY.values()) == set(range(6))


def test_same_episode_whatever_the_hash_seed_and_nothing_on_stdout() -> None:
    assert same_in_every_process("agentgym:babyai", {}, [0, 20, 35, 50], turns=4)


def test_close_frees_the_worlds() -> None:
    game = BabyAI(levels=["GoToObj"])
    game.reset(0, 0)
    game.close()
    assert game._made == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"levels": ["GoToLocl"]}, "levels: there is no 'GoToLocl'; did you mean 'GoToLocal'?"),
        ({"levels": []}, "levels is empty"),
        ({"actions": "low"}, "actions is high or primitive, not 'low'"),
        ({"style": "terse"}, "style is full or short, not 'terse'"),
    ],
)
def test_bad_options(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make("agentgym:babyai", options)
    assert words in str(caught.value)
