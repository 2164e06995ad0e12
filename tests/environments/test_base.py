"""What every environment owes its users: played here with each that the default installation can make."""

from __future__ import annotations

from random import Random
from typing import Any

import jsonschema
import pytest

from agentforge.environments.base import Environment, Info, Step
from agentforge.environments.registry import make
from agentforge.environments.splits import task_ids
from agentforge.errors import UserError

OPTIONS: dict[str, dict[str, Any]] = {
    "affine:sat": {"n_vars": [4, 8], "k": 3, "max_turns": 2},
    "affine:abd": {"allow_unisolated": True, "max_turns": 2},
    "affine:ded": {"allow_unisolated": True, "max_difficulty": 1},
    "agentgym:textcraft": {},
    "agentgym:babyai": {"levels": ["GoToObj", "GoToRedBall"]},
}
NONSENSE = ["", "x", "<think>", "Action:", "<tool_call>{}</tool_call>", "\0\n\ud800", "Action: " + "z" * 5000, "🙂"]


@pytest.fixture(params=OPTIONS, ids=str, scope="module")
def environment(request: pytest.FixtureRequest) -> Environment:
    return make(request.param, OPTIONS[request.param])


def test_it_says_what_it_is(environment: Environment) -> None:
    assert environment.id in OPTIONS
    assert environment.max_turns >= 1
    assert len(environment.instructions) > 20
    assert environment.tasks > 50
    assert "random" in environment.baselines
    function = environment.action_tool["function"]
    jsonschema.Draft202012Validator.check_schema(function["parameters"])
    assert function["name"] and function["description"]


def test_nonsense_is_an_invalid_action_and_no_crash(environment: Environment) -> None:
    over = True
    for text in NONSENSE:
        if over:
            environment.reset(0, task_ids(environment, "train", 1)[0])
        step = environment.step(text)
        assert (step.reward, step.info["success"], step.info["valid_action"]) == (0.0, False, False), text
        assert step.info["problem"]
        over = step.terminated or step.truncated


def test_an_episode_depends_on_seed_and_task_alone(environment: Environment) -> None:
    tasks = task_ids(environment, "train", 3)
    first = [environment.reset(5, task) for task in tasks]
    environment.step("x")
    again = [environment.reset(5, task) for task in reversed(tasks)]
    assert first == again[::-1]
    assert first[0] and len(set(first)) > 1


def test_turns_end(environment: Environment) -> None:
    environment.reset(0, task_ids(environment, "train", 1)[0])
    steps = [environment.step("x")]
    while not (steps[-1].terminated or steps[-1].truncated):
        steps.append(environment.step("x"))
    assert len(steps) == environment.max_turns
    assert not steps[-1].info["success"]


def test_the_expert_wins(environment: Environment) -> None:
    won = 0
    for task in task_ids(environment, "train", 3):
        environment.reset(0, task)
        while (text := environment.expert()) is not None:
            step = environment.step(text)
            if step.terminated or step.truncated:
                won += step.info["success"]
                break
    assert won >= 2


def test_scores_are_within_bounds_and_baselines_are_known(environment: Environment) -> None:
    for name in environment.baselines:
        environment.reset(0, task_ids(environment, "train", 1)[0])
        step = environment.step(environment.baseline(name, Random(0)))
        assert 0 <= step.info["score"] <= 1


@pytest.mark.parametrize("task", [-1, 1 << 40])
def test_there_is_no_such_task(environment: Environment, task: int) -> None:
    with pytest.raises(UserError):
        environment.reset(0, task)


class Least(Environment):
    """As little as an environment can be."""

    id = "test:least"
    max_turns = 1
    instructions = ""
    tasks = 1

    def reset(self, seed: int, task_id: int) -> str:
        return ""

    def step(self, text: str) -> Step:
        return Step("", 0.0, True, False, Info(success=False, valid_action=True, score=0.0))


def test_the_rest_has_defaults() -> None:
    environment = Least()
    assert (environment.difficulty(0), environment.expert(), environment.graded) == (0, None, False)
    environment.close()
    with pytest.raises(UserError, match="no baseline 'random'"):
        environment.baseline("random", Random(0))
