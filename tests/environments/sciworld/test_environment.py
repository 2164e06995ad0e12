"""ScienceWorld: needs the extra and Java, and one Java machine for all of these tests."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentforge.environments.base import EnvironmentFailed
from agentforge.environments.registry import make
from agentforge.environments.sciworld import simulator as sciworld_server
from agentforge.environments.sciworld.environment import TASKS, SciWorld, numbered
from agentforge.errors import UserError
from tests.environments.playing import expert, play

missing = [
    what
    for what, found in {
        "the package scienceworld": importlib.util.find_spec("scienceworld"),
        "java": shutil.which("java"),
    }.items()
    if not found
]
installed_only = pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")


@pytest.fixture(scope="module")
def game() -> Iterator[SciWorld]:
    environment = make("agentgym:sciworld", {"max_difficulty": 0})
    assert isinstance(environment, SciWorld)
    yield environment
    environment.close()
    assert sciworld_server._machines == []


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scienceworld", None)
    monkeypatch.setitem(sys.modules, "scienceworld.constants", None)
    with pytest.raises(UserError, match=r"pip install agentforge-train\[sciworld\]"):
        make("agentgym:sciworld")


@installed_only
def test_without_java_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="apt install default-jre-headless"):
        make("agentgym:sciworld")


def test_ids_of_tasks_do_not_depend_on_the_difficulty() -> None:
    tasks = numbered(3)
    assert len(tasks) == len(set(tasks)) == 2188
    assert numbered(1) == tasks[: len(numbered(1))]
    levels = [TASKS[name][1] for name, _ in tasks]
    assert levels == sorted(levels)


def test_bad_options() -> None:
    with pytest.raises(UserError, match="max_difficulty must be a whole number, 0 or more, not -1"):
        make("agentgym:sciworld", {"max_difficulty": -1})


@installed_only
def test_nothing_is_written_where_we_are(game: SciWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    other = SciWorld()
    with monkeypatch.context() as patched:
        patched.setattr(sciworld_server, "_machines", [])
        other.reset(0, 0)
        other.close()
    assert list(tmp_path.iterdir()) == []


@installed_only
def test_expert_reaches_the_full_score(game: SciWorld) -> None:
    steps = play(game, expert, 4)
    assert steps[-1].info["success"]
    assert steps[-1].terminated
    assert sum(step.reward for step in steps) == pytest.approx(1)
    scores = [step.info["score"] for step in steps]
    assert scores == sorted(scores) and scores[-1] == 1


@installed_only
def test_invalid_actions_and_a_wrong_focus(game: SciWorld) -> None:
    assert game.reset(0, 3).startswith("Your task is to ")
    step = game.step("Action: fly to the moon")
    assert not step.info["valid_action"]
    assert "does not know 'fly to the moon'" in step.observation
    step = game.step("Action: focus on picture")
    assert step.terminated
    assert (step.reward, step.info["score"], step.info["success"]) == (-1, 0, False)
    assert game.expert() is None


@installed_only
def test_environments_share_machines_and_a_dead_one_loses_one_episode(game: SciWorld) -> None:
    other = SciWorld()
    game.reset(0, 1)
    other._machine = game._machine
    assert game._machine is not None
    game._machine.games += 1
    other.reset(0, 2)
    assert game.step("Action: look around").info["valid_action"]
    game._machine._process.kill()
    for environment in (game, other):
        with pytest.raises(EnvironmentFailed):
            environment.step("Action: look around")
    assert game.reset(0, 1).startswith("Your task is to ")
