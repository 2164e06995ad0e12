"""An exponential moving average of the weights: noisier steps are trained, their average is evaluated and published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class AveragedWeights:
    """``average = decay * average + (1 - decay) * weight`` after every optimiser step, in fp32, of what is trained.

    The decay warms up as min(decay, (1 + n) / (10 + n)) at step n: an average of two steps must not be mostly the
    initialisation (the schedule of TensorFlow's ExponentialMovingAverage with `num_updates`).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        # These are the very tensors that the optimiser changes in place; the averages are copies in fp32.
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._averages = {name: weight.detach().float().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take one step of the weights in."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, average in self._averages.items():
            average.lerp_(self._weights[name].detach().to(average), 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Put the average into the model; afterwards it has its own weights again, bit for bit."""
        # A copy of what is trained, because the average is written over it.
        trained = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._write(self._averages)
        try:
            yield
        finally:
            self._write(trained)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            # In place, because optimiser and DDP hold on to these tensors.
            weight.copy_(values[name])

    def save(self, file: Path) -> None:
        """Write the average, in fp32."""
        save_file(self._averages | {"steps": torch.tensor(self.steps)}, file)

    def load(self, file: Path) -> None:
        """Read what `save` wrote."""
        saved = load_file(file)
        self.steps = int(saved.pop("steps"))
        for name, average in self._averages.items():
            average.copy_(saved[name])
