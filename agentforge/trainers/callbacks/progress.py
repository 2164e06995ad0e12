"""The run in the terminal: one line with a bar, or plain log lines where there is no terminal."""

from __future__ import annotations

import logging
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

log = logging.getLogger(__name__)


class ProgressCallback(TrainerCallback):
    """Shows step, loss, tokens a second and the remaining time."""

    def __init__(self) -> None:
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}"))
        self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self._shown = self._bar.console.is_terminal
        # Set before the training begins: `close` is also called when a run ends before that.
        self._bars = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar at the step that the run goes on from."""
        self._bars = is_progress_bar_enabled()
        disable_progress_bar()  # the parent's, one for each file of each checkpoint
        if state.is_world_process_zero and self._shown:
            self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step, status="")
            self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if state.is_world_process_zero and self._shown:
            self._bar.update(self._task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the figures of the step or of the evaluation."""
        if not logs or not state.is_world_process_zero or not (status := _status(logs)):
            return
        if self._shown:
            self._bar.update(self._task, status=status)
        else:
            log.info("step %d/%d: %s", state.global_step, state.max_steps, status)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """Give the terminal back; to be called also when the run ends by an error."""
        if self._shown:  # rich ends even a bar that was never begun with an empty line
            self._bar.stop()
        if self._bars:
            enable_progress_bar()


def _status(logs: dict[str, Any]) -> str:
    shown = []
    if "loss" in logs:
        shown.append(f"loss {logs['loss']:.4f}")
    if "eval_loss" in logs:
        shown.append(f"eval loss {logs['eval_loss']:.4f}")
    # of byte-level models, as their literature has it
    shown += [f"{name} {logs[key]:.4f}" for key, name in (("bpc", "BPC"), ("eval_bpc", "eval BPC")) if key in logs]
    if "bpc" in logs and "learning_rate" in logs:
        shown.append(f"LR {logs['learning_rate']:.2e}")
    if "tokens_per_second" in logs:
        shown.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    if "remaining_seconds" in logs:
        shown.append(f"{_duration(logs['remaining_seconds'])} left")
    if logs.get("skipped_steps"):
        shown.append(f"{logs['skipped_steps']} skipped")
    return ", ".join(shown)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
