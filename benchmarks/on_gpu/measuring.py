"""What every part of the GPU benchmark is measured with.

**MFU** (model FLOP utilisation; Chowdhery et al., arXiv 2204.02311) is the share of the card's stated peak that the
model's own arithmetic takes up:

    MFU = tokens/s x FLOPs per token / 989e12
989 TFLOP/s is the data sheet's dense bf16 peak of an H100 or H200 SXM; matrix products reach about 80 % of it. FLOPs
per token are, for the models of the Trainers, those of `agentforge plan` (`planning.flops.flops_per_token`):

    6 x multiplied parameters + 12 x layers x channels of attention x tokens of a row

where a frozen parameter takes 4 and not 6, and a scan its own. For cognate and agiformer, whose weights are used more
than once, torch counts those of a forward pass (`FlopCounterMode`), and the backward pass takes twice as many. Neither
halves attention for causality. What gradient checkpointing computes again does not count, and padding is no token.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

PEAK_FLOPS = 989e12
PEAK_CARDS = ("H100", "H200")


@dataclass(frozen=True)
class Reading:
    """What one contestant did.

    Attributes:
        seconds: of a step.
        tokens: of a step, padding left out; None: a step has none.
        flops_per_token: see the module; None: no MFU is given.
        note: what the figures do not say.
    """

    seconds: float
    tokens: float | None = None
    flops_per_token: float | None = None
    note: str = ""


class Missing(Exception):
    """What a contestant needs is not here; its line says so in these words."""


@dataclass(frozen=True)
class Contestant:
    """One line of the table.

    Attributes:
        name: of the line.
        run: measures it until the moment (`time.monotonic`) that it is given.
        peer: name of the line that its speed is divided by.
    """

    name: str
    run: Callable[[float], Reading]
    peer: str | None = None


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Wait for the device, so that a clock can be read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def autocast() -> torch.autocast:
    return torch.autocast(device().type, dtype=torch.bfloat16)


def mfu(reading: Reading) -> float | None:
    """Return the share of the stated peak; None on a card whose peak is another, or where no FLOPs were counted."""
    if reading.tokens is None or reading.flops_per_token is None or not torch.cuda.is_available():
        return None
    if not any(card in torch.cuda.get_device_name() for card in PEAK_CARDS):
        return None
    return reading.tokens / reading.seconds * reading.flops_per_token / PEAK_FLOPS


def training_flops(forward: Callable[[], Any]) -> float | None:
    """Return three times the FLOPs of a forward pass; None where torch cannot count them: only the MFU is lost then."""
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            forward()
    except Exception:  # whatever the counter does not know of an operator
        traceback.print_exc()
        return None
    return 3 * float(counter.get_total_flops())


def repeated(work: Callable[[], Any], until: float, *, warm: int = 3, most: int = 40) -> float:
    """Return the median seconds of a call: ``most`` of them, or fewer where time is up, but two."""
    for _ in range(warm):
        work()
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < most and time.monotonic() < until):
        wait()
        begun = time.perf_counter()
        work()
        wait()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def start_of_peak() -> None:
    """Free what nobody holds, and measure the peak from here on."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Return the most that tensors held since `start_of_peak`; None without a GPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


@contextlib.contextmanager
def made_on_the_device() -> Iterator[None]:
    """Have weights drawn where they will be: a CPU takes minutes for billions of them."""
    torch.manual_seed(0)
    with torch.device(device()):
        yield


class Training:
    """A step of a model in bf16 with AdamW: loss, backward pass, step.

    Args:
        model: on the device; its weights are fp32.
        loss: of the model and ids `(B, T)`.
        ids: the batch, the same in every step.
        compiled: by torch.compile.
    """

    def __init__(self, model: Any, loss: Callable[[Any, Tensor], Tensor], ids: Tensor, compiled: bool = False) -> None:
        self.model = model.train()
        self.loss = torch.compile(loss, dynamic=False) if compiled else loss
        self.eager = loss
        self.ids = ids
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(self) -> None:
        with autocast():
            loss = self.loss(self.model, self.ids)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def reading(self, until: float) -> Reading:
        with autocast():
            flops = training_flops(lambda: self.eager(self.model, self.ids))
        start_of_peak()
        seconds = repeated(self.step, until)
        with autocast():
            value = float(self.loss(self.model, self.ids).detach())
            with torch.no_grad():
                plain = float(self.eager(self.model, self.ids))
        if not math.isfinite(value):
            raise ValueError(f"the loss is {value} after training")
        note = "" if self.loss is self.eager else f"loss {value:.5g}, not compiled {plain:.5g}"
        return Reading(seconds, self.ids.numel(), None if flops is None else flops / self.ids.numel(), note)
