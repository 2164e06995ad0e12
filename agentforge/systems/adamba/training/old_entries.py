"""Training of an expanded model: the entries that the smaller one had stand still, or move more slowly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agentforge.systems.adamba.modeling.shape import AdambaShape, index_of, resized
from agentforge.systems.adamba.widths.elastic import Runs, blocks, runs_of


class OldEntries:
    """The part of each parameter that `surgery expand` copied from the smaller model.

    They are held back around the optimiser's step and not inside it, so that any optimiser will do: what it does to
    them is taken back, wholly or but for a share. With AdamW, whose update is elementwise, the share is exactly a share
    of its learning rate and its weight decay. Standing still, they also have no gradient: none enters the clipped norm,
    and their moments stay zero.
    """

    def __init__(self, model: nn.Module, smaller: AdambaShape, share: float) -> None:
        """Find them.

        Args:
            model: the expanded one.
            smaller: its shape before.
            share: of the optimiser's update that old entries get; 0: they keep their bits.
        """
        self.share = share
        config: Any = model.config
        # The map that slices a smaller model out also says where its entries lie in the larger one.
        small = resized(config, smaller)
        self.parts: list[tuple[nn.Parameter, tuple[Runs, ...]]] = []
        for name, parameter in model.named_parameters():
            if not _old(name, smaller) or not parameter.requires_grad:
                continue
            index = index_of(name, small, config)
            places = tuple(runs_of(part, size) for part, size in zip(index, parameter.shape, strict=True))
            self.parts.append((parameter, places))
        self._before: list[list[Tensor]] = []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Hold the entries back in each step of this optimiser."""
        optimizer.register_step_pre_hook(lambda *_: self._remember())
        optimizer.register_step_post_hook(lambda *_: self._hold_back())

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradients of entries that stand still."""
        if self.share:
            return
        for parameter, places in self.parts:
            if parameter.grad is not None:
                for view in blocks(parameter.grad, places):
                    view.zero_()

    @torch.no_grad()
    def _remember(self) -> None:
        self.mask_gradients()
        self._before = [[view.clone() for view in blocks(parameter, places)] for parameter, places in self.parts]

    @torch.no_grad()
    def _hold_back(self) -> None:
        for (parameter, places), before in zip(self.parts, self._before, strict=True):
            for view, old in zip(blocks(parameter, places), before, strict=True):
                view.copy_(torch.lerp(old, view, self.share) if self.share else old)
        self._before = []


def _old(name: str, smaller: AdambaShape) -> bool:
    """Tell whether the smaller model had a tensor of this name."""
    if name.startswith("model.layers."):
        return int(name.split(".")[2]) < smaller.num_hidden_layers
    return name.startswith(("model.", "lm_head."))
