"""Tasks of reasoning-gym, on the real package."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from agentforge.environments.base import Environment, EnvironmentFailed
from agentforge.environments.reasoning_gym import environment as module
from agentforge.environments.registry import make
from agentforge.environments.splits import split_of, task_ids
from agentforge.errors import UserError
from tests.environments.playing import baseline, expert, play, same_in_every_process, success_rate

pytest.importorskip("reasoning_gym", reason="the extra reasoning-gym is not installed")
DIGITS = {"max_level": 0, "config": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}}


@pytest.fixture(scope="module")
def sums() -> Environment:
    return make("reasoning-gym:chain_sum", DIGITS)


def test_the_answer_is_scored_by_the_kind(sums: Environment) -> None:
    assert sums.id == "reasoning-gym:chain_sum"
    assert success_rate(sums, expert, range(20)) == 1
    assert success_rate(sums, baseline("random"), range(60)) < 0.4
    sums.reset(0, 3)
    right = sums.expert()
    for text in (f"<think>\n<answer>x</answer>\n</think>\n\nSo: {right}", f"<answer>no</answer> {right}"):
        sums.reset(0, 3)
        step = sums.step(text)
        assert (step.reward, step.terminated, step.info["success"], step.info["score"]) == (1.0, True, True, 1.0)


def test_a_call_of_act_holds_the_answer(sums: Environment) -> None:
    sums.reset(0, 3)
    answer = str(sums.expert()).removeprefix("<answer>").removesuffix("</answer>")
    assert sums.step(f'<tool_call>\n{{"name": "act", "arguments": {{"action": "{answer}"}}}}\n</tool_call>').info[
        "success"
    ]


@pytest.mark.parametrize("text", ["", "x", "<think>", "<answer>", "<tool_call>{}</tool_call>", "Action: 3", "\0\ud800"])
def test_nonsense_is_no_answer(sums: Environment, text: str) -> None:
    sums.reset(0, 3)
    step = sums.step(text)
    assert (step.reward, step.terminated, step.info["valid_action"]) == (0.0, True, False)
    assert step.info["problem"]


def test_of_several_answers_the_last_counts() -> None:
    environment = make("reasoning-gym:chain_sum", {**DIGITS, "max_turns": 2})
    environment.reset(0, 3)
    assert environment.step("<answer>none</answer>").observation == "That is not the right answer."
    assert environment.step(str(environment.expert())).info["success"]
    steps = play(environment, lambda _: "<answer>none</answer>", 3)
    assert [step.truncated for step in steps] == [False, True]


def test_no_question_is_in_both_splits(sums: Environment) -> None:
    """Of two digits there are few sums, so the same one is drawn for many ids."""
    asked: dict[str, set[str]] = {"train": set(), "eval": set()}
    for task in range(400):
        asked[split_of(sums.id, task)].add(sums.reset(0, task))
    assert asked["eval"] and not asked["train"] & asked["eval"]


def test_a_level_is_a_difficulty_and_its_tasks_stay_the_same(sums: Environment) -> None:
    low, all_levels = make("reasoning-gym:spell_backward", {"max_level": 1}), make("reasoning-gym:spell_backward")
    assert {low.difficulty(task) for task in task_ids(low, "train")} == {0, 1}
    assert all_levels.tasks > low.tasks == 20_000
    for task in (5, 10_005):
        assert low.reset(0, task) == all_levels.reset(1, task)
    lengths = [sum(len(all_levels.reset(0, 10_000 * level + n)) for n in range(10)) for level in (0, 3)]
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize("name", ["sudoku", "knights_knaves", "countdown", "power_function", "acre"])
def test_other_kinds_play(name: str) -> None:
    """Among them: one without checks of its fields, and one whose questions are made beforehand."""
    environment = make(f"reasoning-gym:{name}")
    environment.reset(0, 7)
    said = environment.expert()
    assert said is not None and environment.step(said).info["success"]
    environment.reset(0, 7)
    assert 0 <= environment.step(environment.baseline("random", Random(0))).info["score"] <= 1


def test_a_question_that_cannot_be_made_is_passed_over(sums: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """`knight_swap` looks for a puzzle at random, and gives up now and then."""

    class Fickle:
        def __init__(self, fails: int) -> None:
            self.fails = fails

        def __getitem__(self, index: int) -> dict[str, str]:
            self.fails -= 1
            if self.fails >= 0:
                raise RuntimeError("no puzzle found")
            return {"question": f"question {index}", "answer": "1"}

    kind = Fickle(3)
    monkeypatch.setattr(module, "_dataset", lambda *_: kind)
    assert sums.reset(0, 3).startswith("question")
    kind.fails = 3
    assert sums.baseline("random", Random(0)) == "<answer>1</answer>"
    kind.fails = 1000
    with pytest.raises(EnvironmentFailed, match=r"cannot make question .*: no puzzle found"):
        sums.reset(0, 3)


def test_levels_that_it_refuses_are_left_out() -> None:
    assert make("reasoning-gym:rubiks_cube").tasks == 4 * 10_000


def test_another_process_plays_the_same() -> None:
    assert same_in_every_process("reasoning-gym:chain_sum", DIGITS, range(4))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("chain_sun", {}, "reasoning-gym has no 'chain_sun'; did you mean 'chain_sum'?"),
        ("chain_sum", {"config": {"min_term": 1}}, "config has no field 'min_term'; did you mean 'min_terms'?"),
        ("chain_sum", {"config": {"min_terms": 9}}, "config does not fit level 0: max_terms must be >= min_terms"),
        ("chain_sum", {"config": {"seed": 1}}, "config has no field 'seed'"),
        ("chain_sum", {"config": 3}, "config must be fields and their values, not 3"),
        ("chain_sum", {"max_level": 99}, "max_level must be a whole number, from 0 to 10, not 99"),
        ("chain_sum", {"levels": 3}, "has no option 'levels'"),
    ],
)
def test_what_is_wrong_is_said(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        make(f"reasoning-gym:{name}", options)
    assert said in str(error.value) and "\n" not in str(error.value)
