"""Ends a run whose policy is falling apart: no valid actions, turns that grow without end, far from the reference.

Such a run does not recover, and each further step costs money and makes the checkpoints worse.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentforge.recipe.schema import Collapse
from agentforge.trainers.callbacks.limits import LimitsCallback

log = logging.getLogger(__name__)

# Logged lines with figures of a rollout that say how long a turn is at first.
FIRST = 3


class CollapseCallback(TrainerCallback):
    """Watches `valid_actions`, `turn_tokens` and `kl` of the logged lines.

    While one of them is out of bounds no checkpoint is written, so the newest one is from before.

    Attributes:
        reason: what ended the run, or None.
    """

    def __init__(self, bounds: Collapse, limits: LimitsCallback) -> None:
        self.bounds = bounds
        self.reason: str | None = None
        self._limits = limits
        self._first: list[float] = []
        self._in_a_row = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Judge a line; one without new episodes and without KL says nothing."""
        if not logs or not {"valid_actions", "kl"} & logs.keys():
            return
        problem = self._problem(logs)
        self._in_a_row = self._in_a_row + 1 if problem else 0
        if problem is None:
            return
        log.warning("step %d: %s (%d of %d)", state.global_step, problem, self._in_a_row, self.bounds.patience)
        # A signal or the budget has to leave a checkpoint all the same, or the paid steps are lost.
        if not (self._limits.stopped or self._limits.exceeded):
            control.should_save = False
        if self._in_a_row >= self.bounds.patience:
            self.reason = problem
            control.should_training_stop = True

    def _problem(self, logs: dict[str, Any]) -> str | None:
        bounds = self.bounds
        valid, tokens, kl = logs.get("valid_actions"), logs.get("turn_tokens"), logs.get("kl")
        if valid is not None and valid < bounds.min_valid_actions:
            return f"{valid:.0%} of the turns hold a valid action, but train.collapse.min_valid_actions is " + (
                f"{bounds.min_valid_actions:.0%}"
            )
        if kl is not None and bounds.max_kl is not None and kl > bounds.max_kl:
            return f"the KL to the reference is {kl:.2f} nats a token, but train.collapse.max_kl is {bounds.max_kl:g}"
        if tokens is None:
            return None
        # The first lines set the measure and cannot be judged by it.
        if len(self._first) < FIRST:
            self._first.append(tokens)
            return None
        growth = tokens / (sum(self._first) / FIRST)
        if growth > bounds.max_length_growth:
            return f"the turns are {growth:.1f} times as long as at first, but train.collapse.max_length_growth is " + (
                f"{bounds.max_length_growth:g}"
            )
        return None

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON."""
        return {"first": self._first, "in_a_row": self._in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._first, self._in_a_row = list(state["first"]), int(state["in_a_row"])
