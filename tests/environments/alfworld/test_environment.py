"""ALFWorld: games of our own are what they should be; playing them needs the extra."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentforge.environments.alfworld import environment as module
from agentforge.environments.alfworld.environment import ALFWorld, in_order, readable
from agentforge.environments.alfworld.households import CHANGES, TYPES, fits, household, kind
from agentforge.environments.registry import make
from agentforge.errors import UserError
from tests.environments.playing import expert, play, same_in_every_process

installed = importlib.util.find_spec("alfworld") is not None
installed_only = pytest.mark.skipif(not installed, reason="needs the package alfworld")


@pytest.fixture(scope="module")
def game() -> Iterator[ALFWorld]:
    environment = make("agentgym:alfworld")
    assert isinstance(environment, ALFWorld)
    yield environment
    environment.close()


@pytest.mark.skipif(installed, reason="the package alfworld is there")
def test_without_the_package_the_extra_is_named() -> None:
    with pytest.raises(UserError, match=r"pip install agentforge-train\[alfworld\]"):
        make("agentgym:alfworld")


def test_no_game_is_won_at_its_start_and_every_game_can_be() -> None:
    for task in range(600):
        game = household(task)
        number = task % len(TYPES)
        words = game.task.split()
        target = words[3] if number in CHANGES else words[2]  # put a hot apple in ..., put two pens in ..., look at pen
        copies = [name for name in game.places if kind(name) == target]
        assert len(copies) >= (2 if number == 5 else 1)
        if number == 1:
            assert "desklamp 1" in game.places
            continue
        destination = words[-1]
        assert destination in map(kind, game.receptacles)
        assert fits(target, destination)
        assert all(kind(game.places[copy]) != destination for copy in copies)
        if number in CHANGES:
            assert target in CHANGES[number][0]
            needed = {2: "sinkbasin", 3: "microwave", 4: "fridge"}[number]
            assert needed in map(kind, game.receptacles)


def test_games_differ_and_are_the_same_each_time() -> None:
    assert household(7).problem() == household(7).problem()
    assert len({household(task).problem() for task in range(60)}) == 60


def test_names_and_lists() -> None:
    assert readable(["cabinet_bar_a", "agent1", "cabinet_bar_b", "sink_bar_1_bar_sinkbasin"]) == [
        "cabinet 2",
        "agent1",
        "cabinet 1",
        "sinkbasin 1",
    ]
    assert in_order("On the desk 1, you see a pen 10, a pen 2, and a cd 1.") == (
        "On the desk 1, you see a cd 1, a pen 2, a pen 10."
    )


@installed_only
def test_expert_wins_a_game_of_every_type(game: ALFWorld) -> None:
    for task in range(6):
        steps = play(game, expert, task)
        assert not steps[0].info["success"]
        assert steps[-1].info["success"] and steps[-1].terminated
        assert steps[-1].reward == 1
        assert all(step.info["valid_action"] for step in steps)


@installed_only
def test_both_ways_to_say_put_and_invalid_actions(game: ALFWorld) -> None:
    observation = game.reset(0, 0)
    assert "Your task is to: put a " in observation and "TextWorld" not in observation
    step = game.step("Action: take moon 1 from cabinet 1")
    assert not step.info["valid_action"]
    assert "is not possible here" in step.observation
    while not (said := game.expert() or "").startswith("Action: move"):
        game.step(said)
    thing, place = said.removeprefix("Action: move ").split(" to ")
    assert game.step(f"Action: put {thing} in/on {place}").info["success"]


@installed_only
def test_same_episode_whatever_the_hash_seed() -> None:
    assert same_in_every_process("agentgym:alfworld", {}, [1, 3], turns=3)


TWO = """
from agentforge.environments.registry import make
for task in (0, 1, 2):
    game = make("agentgym:alfworld")
    game.reset(0, task)
    game.step(game.expert())
    game.close()
"""


@installed_only
def test_games_one_after_the_other_leave_a_process_that_can_end() -> None:
    """The planner's own way to close a copy crashes at the exit once there was a second one."""
    assert subprocess.run([sys.executable, "-c", TWO], capture_output=True).returncode == 0


@installed_only
def test_original_games_are_read_from_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain, grammar = (module._World.data(name) for name in ("alfred.pddl", "alfred.twl2"))
    made = household(5)
    grammar = grammar.replace("UNKNOWN GOAL", made.task)
    folder = tmp_path / "json_2.1.1" / "train" / "pick_two_obj_and_place-Mug-1" / "trial_1"
    folder.mkdir(parents=True)
    content = {"pddl_domain": domain, "grammar": grammar, "pddl_problem": made.problem(), "solvable": True}
    (folder / "game.tw-pddl").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    game = ALFWorld(games="original")
    assert (game.tasks, game.difficulty(0)) == (1, 2)
    assert play(game, expert, 0)[-1].info["success"]
    game.close()


@installed_only
def test_original_games_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(UserError, match="run alfworld-download"):
        make("agentgym:alfworld", {"games": "original"})
