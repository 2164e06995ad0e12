"""What happens between the layers in training: hidden states that exits read, and layers that rows leave out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def hidden_after(model: Any, exits: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the hidden states `(B, T, D)` after so many layers, of the forward pass inside the block.

    Args:
        model: an Adamba or FalconH1 with its head.
        exits: numbers of layers that have run.
    """
    seen: dict[int, Tensor] = {}

    def collect(exit: int) -> Any:
        return lambda module, args, output: seen.__setitem__(exit, output[0])

    with ExitStack() as hooks:
        for exit in exits:
            hooks.callback(model.model.layers[exit - 1].register_forward_hook(collect(exit)).remove)
        yield seen


@contextmanager
def leaving_out(model: Any, kept: Tensor | None) -> Iterator[None]:
    """Let rows of the batch skip layers: their hidden states pass by unchanged (stochastic depth, arXiv 1603.09382).

    The layer runs for the whole batch, and what the row would not have had is thrown away: with the small shares of
    LayerSkip this costs less than cutting the batch, and every parameter has a gradient on every process.

    Args:
        model: an Adamba or FalconH1 with its head.
        kept: `(L, B)` bool, whether the layer counts for the row; None: all do.
    """

    def choose(rows: Tensor) -> Any:
        return lambda module, args, output: (torch.where(rows[:, None, None], output[0], args[0]), *output[1:])

    with ExitStack() as hooks:
        if kept is not None:
            for layer, rows in zip(model.model.layers, kept, strict=True):
                hooks.callback(_first(layer, choose(rows)).remove)
        yield


def _first(layer: nn.Module, hook: Any) -> Any:
    # before those that collect: what they see is what the next layer gets
    return layer.register_forward_hook(hook, prepend=True)
