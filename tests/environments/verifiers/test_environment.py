"""Environments of verifiers played step by step, on the real package."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from agentforge.environments.base import Environment
from agentforge.environments.registry import make
from agentforge.errors import UserError
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.experts import Actor
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.scheduler import Task


@pytest.fixture
def games(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("verifiers.v1", reason="the extra verifiers is not installed")
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *sys.path]))  # of the process that serves a task's tools
    opened: list[Environment] = []

    def open_(**options: Any) -> Environment:
        opened.append(make("verifiers:number-games", {"timeout": 60, **options}))
        return opened[-1]

    yield open_
    for environment in opened:
        environment.close()


def test_one_answer_gets_the_weighted_rewards(games: Any) -> None:
    environment = games()
    assert (environment.tasks, environment.id) == (30, "verifiers:number-games")
    assert environment.reset(0, 4) == "What is twice 5?"
    assert environment.instructions == "Be brief."
    step = environment.step("<think>\nfive and five\n</think>\n\n10")
    assert (step.reward, step.terminated, step.truncated) == (1.0, True, False)
    assert step.info == {"success": True, "valid_action": True, "score": 1.0}
    environment.reset(0, 4)
    step = environment.step("The answer is 10.")
    assert (step.reward, step.info["success"], step.info["score"]) == (0.75, False, 0.75)


def test_several_turns_and_their_limit(games: Any) -> None:
    environment = games(taskset={"game": "guess"}, max_turns=2)
    assert environment.reset(0, 0) == "Guess a number."
    step = environment.step("1")
    assert (step.observation, step.reward, step.terminated) == ("It is larger.", 0.0, False)
    assert environment.step("2").info["success"]
    environment.reset(0, 0)
    environment.step("1")
    step = environment.step("1")
    assert (step.terminated, step.truncated, step.info["score"]) == (False, True, 0.25)


class Caller(Actor):
    """Calls the tool twice in a turn, then answers."""

    label = "caller"

    def turn(self, environment: Environment, random: Random) -> str | None:
        if self.said:
            return "5"
        self.said = True
        calls = [{"name": "calculator_add", "arguments": {"a": a, "b": 3}} for a in (2, 4)]
        return "\n".join(f"<tool_call>\n{json.dumps(call)}\n</tool_call>" for call in calls)

    said = False


def test_tools_are_schemas_and_each_call_has_its_result(games: Any) -> None:
    """As `collect` plays it: the row has the task's tools, and a tool message for each of two calls."""
    with EnvironmentPool({"verifiers:number-tools": {"timeout": 60}}) as pool:
        [episode] = play(Caller(), pool, [Task("verifiers:number-tools", 0, 0)], sampling=Sampling(16, 1.0, 1.0, 0))
    [tool] = episode.tools
    assert tool["function"]["name"] == "calculator_add"
    assert set(tool["function"]["parameters"]["properties"]) == {"a", "b"}
    assert [message["role"] for message in episode.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
    assert [message["content"] for message in episode.messages if message["role"] == "tool"] == ["5", "7"]
    assert episode.success and episode.score == 1


def test_two_episodes_do_not_meet(games: Any) -> None:
    one, other = games(), games()
    assert (one.reset(0, 0), other.reset(0, 1)) == ("What is twice 1?", "What is twice 2?")
    assert other.step("4").info["success"] and one.step("2").info["success"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nmber-games", {}, "verifiers has no 'nmber-games'"),
        ("textarenna", {}, "did you mean 'textarena'"),
        ("number-games", {"taskset": {"gme": "x"}}, "cannot be made"),
        ("number-games", {"max_turns": 0}, "max_turns must be a whole number"),
        ("number-games", {"taskset": 3}, "taskset must be keys and their values"),
    ],
)
def test_what_is_wrong_is_said(games: Any, name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        make(f"verifiers:{name}", options)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_without_the_package_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)
    with pytest.raises(UserError, match=r"needs the package verifiers .*agentforge-train\[verifiers\]"):
        make("verifiers:gsm8k", {})
