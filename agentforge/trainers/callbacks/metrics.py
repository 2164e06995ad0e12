"""`metrics.jsonl`: one line for each logged step and each evaluation, always, whatever `report_to` is."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from agentforge.artifacts import write_text
from agentforge.training_log import METRICS, read_metrics


class MetricsCallback(TrainerCallback):
    """Appends to ``metrics.jsonl``; after a resumption the lines beyond the checkpoint are dropped first."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / METRICS
        self._tokens = 0
        self._since = time.monotonic()
        self._started = time.monotonic()
        self._first_step = 0
        self._epoch = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Cut off what a killed run logged after its last checkpoint: those steps are made again."""
        self._since = self._started = time.monotonic()
        self._first_step, self._epoch = state.global_step, state.epoch or 0.0
        lines = read_metrics(self.path)
        # The count goes on over restarts, so the first speed must be measured from where it stood.
        self._tokens = max((line.get("tokens", 0) for line in lines if line["step"] <= state.global_step), default=0)
        if state.is_world_process_zero:
            kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= state.global_step]
            write_text(self.path, "".join(kept))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add speed, times and memory to the line, for every reporter behind this one, and write it.

        ``epoch_minutes`` is how long an epoch takes at the speed since the last line.
        """
        if logs is None:
            return
        now = time.monotonic()
        if "tokens" in logs:
            logs["tokens_per_second"] = round((logs["tokens"] - self._tokens) / max(now - self._since, 1e-9), 1)
            # Only steps of this process: those before a restart took time that its clock has not seen.
            done = state.global_step - self._first_step
            logs["remaining_seconds"] = round(
                (state.max_steps - state.global_step) * (now - self._started) / max(done, 1), 1
            )
            if (state.epoch or 0.0) > self._epoch:
                minutes = (now - self._since) / 60
                logs["epoch_minutes"] = round(minutes / ((state.epoch or 0.0) - self._epoch), 3)
            self._tokens, self._since, self._epoch = logs["tokens"], now, state.epoch or 0.0
            logs.update(memory_in_use(args.device))
        if state.is_world_process_zero:
            line = {"step": state.global_step, **{key: value for key, value in logs.items() if _plain(value)}}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def memory_in_use(device: torch.device) -> dict[str, int]:
    """Return the bytes that this process uses: the most since the last call on a GPU, those of now on a CPU.

    ``mem_allocated`` is what tensors take (on a CPU the whole process, resident), ``mem_reserved`` what torch's
    allocator holds for them; a CPU has no such allocator, and then the name is absent.
    """
    if device.type == "cuda":
        figures = {
            "mem_allocated": torch.cuda.max_memory_allocated(device),
            "mem_reserved": torch.cuda.max_memory_reserved(device),
        }
        torch.cuda.reset_peak_memory_stats(device)
        return figures
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # not Linux
        return {}
    return {"mem_allocated": pages * os.sysconf("SC_PAGE_SIZE")}


def _plain(value: Any) -> bool:
    # JSON has no NaN
    return not isinstance(value, float) or math.isfinite(value)
