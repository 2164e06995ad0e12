"""Ends a run that hangs: a rented machine that waits for a process which never answers costs as much as one that works.

One process of several that stops answering (a lost GPU, a dead network, SIGSTOP) leaves the others waiting inside a
collective operation for half an hour or for ever. Each process therefore watches itself from a second thread. The
thread runs while the first one waits, because torch lets go of the interpreter there.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentforge.stopping import EXIT_CODE

LOOKS = 1.0  # seconds between two looks


class WatchdogCallback(TrainerCallback):
    """Ends the process with a sentence if nothing of the training loop has ended for too long."""

    def __init__(self, minutes: float | None) -> None:
        """Keep the bound.

        Args:
            minutes: in which a micro-batch, a step, an evaluation's batch or a checkpoint must end; None: no bound.
        """
        self._seconds = None if minutes is None else 60 * minutes
        self._silent = 0.0
        self._step = 0
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while the block runs."""
        if self._seconds is None:
            yield
            return
        self._silent = 0.0
        thread = threading.Thread(target=self._watch, args=(self._seconds,), daemon=True, name="watchdog")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self, seconds: float) -> None:
        looked = time.monotonic()
        while not self._over.wait(min(LOOKS, seconds / 4)):
            now = time.monotonic()
            # A process that was suspended itself (Ctrl-Z, a closed laptop) has not hung: it counts no more than a look.
            self._silent += min(now - looked, 2 * LOOKS)
            looked = now
            if self._silent > seconds:
                _end(seconds, self._step)

    def _got_on(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        self._silent, self._step = 0.0, state.global_step
        return control

    on_train_begin = on_epoch_begin = on_step_begin = on_substep_end = on_step_end = _got_on
    on_prediction_step = on_evaluate = on_log = on_save = on_train_end = _got_on


def _end(seconds: float, step: int) -> None:
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    what = "the one that says nothing here hangs, or the network does" if world != "1" else "it hangs where is shown"
    # Where each thread waits: whether in the network, on the disk or in the rows' loader.
    faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr, all_threads=True)
    print(
        f"agentforge: process {rank} of {world} has not got on for {seconds:g} seconds (train.watchdog_minutes), after "
        f"step {step}: {what}. Run the same command again to continue from the newest checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(EXIT_CODE)  # the first thread waits inside a library: no exception reaches it
