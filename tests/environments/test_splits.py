"""Reserved ids stay reserved: whatever the options, the seed or the number of tasks."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.environments import splits
from agentforge.environments.base import Environment, Info, Step
from agentforge.environments.registry import ENVIRONMENTS
from agentforge.environments.splits import EVAL_SHARE, split_of, task_ids
from agentforge.errors import UserError

IDS = st.sampled_from([*ENVIRONMENTS, "one:of-your-own"])


class Counted(Environment):
    """An environment with so many tasks."""

    max_turns = 1
    instructions = ""

    def __init__(self, id: str, count: int) -> None:
        self.__class__ = type("Counted", (Counted,), {"id": id})
        self.count = count

    @property
    def tasks(self) -> int:
        return self.count

    def reset(self, seed: int, task_id: int) -> str:
        return ""

    def step(self, text: str) -> Step:
        return Step("", 0.0, True, False, Info(success=False, valid_action=True, score=0.0))


@given(IDS, st.integers(0, 400), st.integers(0, 1 << 40))
def test_train_and_eval_share_no_task_and_leave_none_out(id: str, count: int, seed: int) -> None:
    environment = Counted(id, count)
    train, reserved = (task_ids(environment, split, seed=seed) for split in ("train", "eval"))
    assert sorted(train + reserved) == list(range(count))
    assert {split_of(id, task) for task in train} <= {"train"}
    assert {split_of(id, task) for task in reserved} <= {"eval"}


@given(IDS, st.integers(0, 200), st.integers(0, 1 << 40))
def test_endless_environments_never_train_on_a_reserved_task(id: str, count: int, seed: int) -> None:
    environment = Counted(id, 1 << 31)
    train = task_ids(environment, "train", count, seed)
    assert len(set(train)) == count
    assert all(split_of(id, task) == "train" for task in train)


def test_the_reserved_ids_are_these_for_good() -> None:
    """Models were trained on the others: a change here puts evaluation tasks into old training data."""
    assert [i for i in range(60) if split_of("affine:sat", i) == "eval"] == [18, 24, 29, 33, 35, 39, 46]
    babyai = [i for i in range(60) if split_of("agentgym:babyai", i) == "eval"]
    assert babyai == [4, 7, 9, 10, 16, 22, 24, 35, 45, 46, 49, 55, 58, 59]


def test_one_in_five_is_reserved() -> None:
    for id in ENVIRONMENTS:
        share = sum(split_of(id, task) == "eval" for task in range(5000)) / 5000
        assert share == pytest.approx(1 / EVAL_SHARE, abs=0.03)


def test_the_seed_decides_the_order() -> None:
    environment = Counted("x", 300)
    assert task_ids(environment, "train", 50, seed=1) == task_ids(environment, "train", seed=1)[:50]
    assert task_ids(environment, "train", seed=1) != task_ids(environment, "train", seed=2)
    state = Random(0).getstate()
    assert task_ids(environment, "eval") == task_ids(environment, "eval")
    assert Random(0).getstate() == state


@pytest.mark.parametrize("count", [None, 2_000_000])
def test_endless_tasks_are_not_listed(count: int | None) -> None:
    with pytest.raises(UserError, match=r"x has 2,147,483,648 tasks, of which 1,000,000 at most can be had at once"):
        task_ids(Counted("x", 1 << 31), "train", count)


def test_drawing_ends_although_nearly_all_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "COUNTABLE", 500)
    environment = Counted("x", 501)
    reserved = sum(split_of("x", task) == "eval" for task in range(501))
    assert len(set(task_ids(environment, "eval", reserved))) == reserved
    with pytest.raises(
        UserError, match=f"x has {reserved} eval tasks with these options, but {reserved + 1} are wanted"
    ):
        task_ids(environment, "eval", reserved + 1)


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"x has \d eval tasks with these options, but 9 are wanted"):
        task_ids(Counted("x", 10), "eval", 9)
