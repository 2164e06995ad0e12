"""Time and peak memory of training steps, measured in this process."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

# mallopt's parameters (malloc.h)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


class PeakMemory:
    """The most memory that was held since it was made, beyond what was held then.

    On a GPU it is that of tensors, as torch's allocator counts them; on a CPU it is that of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
        else:
            # The kernel keeps the high-water mark; 5 sets it back to what is held now.
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")

    def bytes(self) -> int:
        """Return the peak so far."""
        peak = torch.cuda.max_memory_allocated() if self.cuda else _status("VmHWM")
        return int(peak) - self._before

    @staticmethod
    def measurable(device: torch.device) -> bool:
        """Tell whether this system says how much a process held at most: Linux does."""
        return device.type == "cuda" or (sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def give_blocks_back(at_once: bool) -> None:
    """Have glibc give freed blocks back at once, as a GPU's allocator can use them again at once; or when it likes.

    It keeps freed blocks below a threshold that it raises as it goes, and cuts the next ones out of them: then a step
    may hold twice what its tensors need. Elsewhere than on glibc, nothing happens.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 64 << 10 if at_once else 32 << 20)
        library.mallopt(M_TRIM_THRESHOLD, 64 << 10 if at_once else 1 << 30)
        if at_once:
            gc.collect()
            library.malloc_trim(0)  # what it has kept so far would be used again, and not be seen


class StepMeter(TrainerCallback):
    """Seconds of each step, and the peak of memory.

    Attributes:
        seconds: of each step, from its first micro-batch to the optimiser's end.
        peak: bytes at the most, beyond those before the model was made; None: this system does not say.
    """

    def __init__(self, memory: PeakMemory | None, steps_for_memory: int) -> None:
        self.seconds: list[float] = []
        self.peak: int | None = None
        self._memory = memory
        self._steps_for_memory = steps_for_memory

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait()
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait()
        self.seconds.append(time.perf_counter() - self._begun)
        if self._memory is not None and state.global_step <= self._steps_for_memory:
            self.peak = self._memory.bytes()
            if state.global_step == self._steps_for_memory:
                give_blocks_back(at_once=False)

    def _wait(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
