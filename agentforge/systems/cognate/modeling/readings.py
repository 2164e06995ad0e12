"""What the layers are watched by: the gate's choice, and the memory's surprise and decay."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from agentforge.systems.cognate.modeling.active import Active


class Readings(NamedTuple):
    """Of one run of a layer, `(B, T)` each, or `(1, N)` of active tokens; all None where the layer has no memory.

    Attributes:
        memory_share: mean over channels of 1 - g, with gradient.
        surprise: how far what the memory held was from what is written, detached.
        decay: what is kept of the memory from one token to the next, in [0, 1], detached.
    """

    memory_share: Tensor | None = None
    surprise: Tensor | None = None
    decay: Tensor | None = None


class Collected:
    """Sums of the readings of each layer, over those of its runs that a token took part in."""

    def __init__(self) -> None:
        self._sums: dict[int, dict[str, Tensor]] = {}
        self._runs: dict[int, Tensor | int] = {}

    def add(self, layer: int, readings: Readings, active: Active | None) -> None:
        """Add a run's readings."""
        values = {name: value for name, value in readings._asdict().items() if value is not None}
        if not values:
            return
        if layer not in self._sums:
            self._sums[layer], self._runs[layer] = values, 1
            return
        for name, value in values.items():
            total = self._sums[layer][name]
            self._sums[layer][name] = total + value if active is None else active.add(total, value)
        runs = self._runs[layer]
        if active is not None:
            # a tensor only now: where no token stops, all take part in the same number of runs
            runs = runs if isinstance(runs, Tensor) else torch.full_like(self._sums[layer]["decay"], runs)
            runs = active.add(runs, torch.ones_like(values["decay"]))
        else:
            runs = runs + 1
        self._runs[layer] = runs

    def means(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return memory share, surprise and decay, `(B, T, L)` each for the L layers with a memory."""
        layers = sorted(self._sums)
        if not layers:
            nothing = like.new_zeros(*like.shape[:2], 0)
            return nothing, nothing, nothing
        share, surprise, decay = (
            torch.stack([self._sums[layer][name] / self._runs[layer] for layer in layers], -1)
            for name in Readings._fields
        )
        return share, surprise, decay
