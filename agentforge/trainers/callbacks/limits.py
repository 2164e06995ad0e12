"""What ends a run before its last step: a signal, the budget. Each saves a checkpoint first, on all processes alike."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentforge.recipe.schema import Budget

log = logging.getLogger(__name__)


class LimitsCallback(TrainerCallback):
    """Ends the run after the step in which a signal came or the budget was used up.

    Attributes:
        stopped: a signal ended the run.
        exceeded: the budget did; the sentence that says how.
    """

    def __init__(self, budget: Budget, dollars_per_hour: float, seconds_before: float) -> None:
        self.stopped = False
        self.exceeded: str | None = None
        self._budget = budget
        self._price = dollars_per_hour
        self._before = seconds_before
        self._clock = time.monotonic()
        self._signalled = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as the wish to stop after this step; a second one acts at once."""
        # Python delivers signals to the main thread only, and refuses handlers elsewhere.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        self._handlers = before
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        # The old handlers at once: a second Ctrl-C must work even if saving hangs.
        for known, handler in self._handlers.items():
            signal.signal(known, handler)
        log.warning(
            "%s: saving a checkpoint after this step; send it again to stop at once", signal.Signals(number).name
        )

    def dollars(self) -> float:
        """Return what the run has cost so far, restarts included."""
        return self._price * self._hours()

    def _hours(self) -> float:
        return (self._before + time.monotonic() - self._clock) / 3600

    def _overrun(self) -> str | None:
        if self._budget.max_cost is not None and self.dollars() > self._budget.max_cost:
            return f"the run has cost {self.dollars():.2f} dollars, budget.max_cost is {self._budget.max_cost:g}"
        if self._budget.max_hours is not None and self._hours() > self._budget.max_hours:
            return f"the run has taken {self._hours():.2f} hours, budget.max_hours is {self._budget.max_hours:g}"
        return None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Agree with the other processes: one that saved alone would wait for them for ever."""
        overrun = self._overrun()
        # A signal reaches one process, and clocks differ: without the maximum over all, one would stop and the others
        # wait for it.
        flags = torch.tensor([self._signalled, overrun is not None], dtype=torch.int, device=args.device)
        if args.world_size > 1:
            torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
        stopped, exceeded = flags.tolist()
        # After the last step there is nothing to stop: the result is complete.
        if state.global_step >= state.max_steps or not (stopped or exceeded):
            return
        self.stopped = bool(stopped)
        self.exceeded = (overrun or "another process has used up the budget") if exceeded else None
        control.should_save = control.should_training_stop = True
