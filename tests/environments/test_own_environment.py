"""docs/environments.md says how to add an environment: its code is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from agentforge.environments.base import Environment
from agentforge.environments.registry import ENVIRONMENTS, FAMILIES, make
from agentforge.environments.splits import split_of, task_ids
from agentforge.errors import UserError
from tests.environments.playing import baseline, expert, play, success_rate

PAGE = (Path(__file__).parents[2] / "docs" / "environments.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Add one in ten minutes")[1]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    (tmp_path / "my_games.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    [(name, options)] = yaml.safe_load(block("yaml"))["environments"].items()
    assert name not in ENVIRONMENTS
    return make(name, options)


def test_it_is_played_like_any_other(own: Environment) -> None:
    assert own.tasks == 32
    assert success_rate(own, expert, range(32)) == 1
    assert 0 < success_rate(own, baseline("random"), range(32)) < 0.7
    steps = play(own, lambda _: "Action: many", 3)
    assert len(steps) == own.max_turns and steps[-1].truncated
    assert not any(step.info["valid_action"] for step in steps)
    assert "'many' is no number" in steps[0].observation


def test_its_tasks_are_reserved_too(own: Environment) -> None:
    assert {split_of("mine:guess", task) for task in task_ids(own, "eval")} == {"eval"}
    assert len(task_ids(own, "eval")) + len(task_ids(own, "train")) == 32


def test_its_options_are_checked(own: Environment) -> None:
    with pytest.raises(UserError, match="most must be a whole number"):
        make("mine:guess", {"class": "my_games:Guess", "most": 0})


def test_every_environment_of_the_registry_is_in_the_table() -> None:
    assert [name for name in ENVIRONMENTS if f"`{name}`" not in PAGE] == []
    assert [family for family in FAMILIES if f"`{family}:NAME`" not in PAGE] == []
