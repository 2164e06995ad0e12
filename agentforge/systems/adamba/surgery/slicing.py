"""A narrower or shallower model as a checkpoint of its own: the first rows and columns of every tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.shape import AdambaShape, index_of, resized, take
from agentforge.systems.adamba.surgery.streaming import SHARD_BYTES, main_dtype, open_adamba, write_adamba


def slice_checkpoint(source: Path, target: Path, shape: AdambaShape, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the model of a smaller shape that lies in another one. One tensor is in memory at a time.

    `submodels.cut` makes the same model in memory.

    Args:
        source: checkpoint of an Adamba or FalconH1.
        target: an existing directory.
        shape: no size larger than the source's.
        shard_bytes: largest shard.

    Raises:
        UserError: a size would grow or none would shrink, or heads do not go together.
        CheckRefused: the source's tensors are not those of its config.
    """
    small, tensor, dtype = sliced(source, shape)
    write_adamba(target, small, dtype, tensor, shard_bytes)


def sliced(source: Path, shape: AdambaShape) -> tuple[Any, Callable[[str], torch.Tensor], torch.dtype]:
    """Return a slice of a checkpoint as it lies in it: its config, its tensors by name, their dtype.

    Raises:
        UserError, CheckRefused: as `slice_checkpoint`.
    """
    config, checkpoint = open_adamba(source)
    check_smaller(AdambaShape.of(config), shape)
    # Nothing is computed: nested widths were trained as the first rows and columns, so cutting them out is all it
    # takes.
    small = resized(config, shape)

    def tensor(name: str) -> torch.Tensor:
        return take(checkpoint.read(name), index_of(name, small, config))

    return small, tensor, main_dtype(checkpoint)


def check_smaller(whole: AdambaShape, shape: AdambaShape) -> None:
    """Refuse a shape that is no part of the whole.

    Raises:
        UserError: a size would grow or be nothing, or none would shrink.
    """
    for name, size in asdict(shape).items():
        if not 1 <= size <= getattr(whole, name):
            raise UserError(f"{name} of a slice must be 1 to {getattr(whole, name)}, not {size}")
    if shape == whole:
        raise UserError("this slice is the whole model: set surgery.width below 1, or smaller sizes")
