"""When a run is said to fall apart."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from agentforge.recipe.schema import Budget, Collapse
from agentforge.trainers.callbacks.collapse import CollapseCallback
from agentforge.trainers.callbacks.limits import LimitsCallback

FINE = {"valid_actions": 0.9, "turn_tokens": 10.0, "kl": 0.1}


def watch(lines: list[dict[str, Any]], **bounds: Any) -> tuple[CollapseCallback, list[TrainerControl]]:
    callback = CollapseCallback(Collapse(**bounds), LimitsCallback(Budget(), 0.0, 0.0))
    controls = []
    for line in lines:
        control = TrainerControl(should_save=True)
        callback.on_log(TrainingArguments(use_cpu=True), TrainerState(), control, logs=line)
        controls.append(control)
    return callback, controls


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"valid_actions": 0.1}, "10% of the turns hold a valid action, but train.collapse.min_valid_actions is 20%"),
        (
            {"turn_tokens": 50.0},
            "the turns are 5.0 times as long as at first, but train.collapse.max_length_growth is 4",
        ),
        ({"kl": 3.0}, "the KL to the reference is 3.00 nats a token, but train.collapse.max_kl is 2"),
    ],
)
def test_each_bound_ends_the_run_after_so_many_lines_in_a_row(bad: dict[str, float], words: str) -> None:
    lines = [FINE] * 4 + [FINE | bad] + [FINE] + [FINE | bad] * 3
    callback, controls = watch(lines, patience=3, max_kl=2.0)
    assert callback.reason == words
    assert [control.should_training_stop for control in controls] == [False] * 8 + [True]
    assert [control.should_save for control in controls] == [True] * 4 + [False, True] + [False] * 3


def test_lines_that_say_nothing_of_episodes_are_no_lines() -> None:
    broken = FINE | {"valid_actions": 0.0}
    callback, _ = watch([FINE, broken, {"loss": 1.0}, {"eval_loss": 1.0}, broken], patience=2)
    assert callback.reason is not None


def test_it_goes_on_where_it_was() -> None:
    before, _ = watch([FINE] * 3 + [FINE | {"turn_tokens": 90.0}], patience=2)
    after = CollapseCallback(Collapse(patience=2), LimitsCallback(Budget(), 0.0, 0.0))
    after.restore(before.state())
    control = TrainerControl()
    after.on_log(TrainingArguments(use_cpu=True), TrainerState(), control, logs=FINE | {"turn_tokens": 90.0})
    assert control.should_training_stop and after.reason is not None


def test_a_signals_checkpoint_is_written_all_the_same() -> None:
    limits = LimitsCallback(Budget(), 0.0, 0.0)
    limits.stopped = True
    control = TrainerControl(should_save=True)
    callback = CollapseCallback(Collapse(), limits)
    callback.on_log(TrainingArguments(use_cpu=True), TrainerState(), control, logs={"valid_actions": 0.0})
    assert control.should_save
