"""A larger model around an old one that computes the same: wider, with more heads and units, deeper.

What writes into the residual stream (embeddings, `o_proj`, `down_proj`, `mamba.out_proj`) is zero in its new rows and
in the columns of new heads and units: the new channels are silent, the new heads and units are not heard. What reads
the stream is random there, at the scale of the old entries, so that new writers get a gradient at the first step; new
readers get theirs one step later, as in LoRA. Where the head is the embedding it cannot read new channels before the
embedding has written some: the new rows of the last old `down_proj` and of the new layers' writers wait a step too.
What the norms make of the new width is taken back in the config (`shape.resized`), not in the weights: the old model
stays the first rows and columns of the new one, bit for bit.

After LEMON (Wang et al. 2023, arXiv 2310.07999) for widths that are no multiples, with heads of the same size, and
LLaMA Pro (Wu et al. 2024, arXiv 2401.02415) for the new layers: copies of the last ones with silent writers.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from agentforge.errors import UserError
from agentforge.models.checkpoint import Checkpoint
from agentforge.systems.adamba.modeling.shape import AdambaShape, axes_of, index_of, put, resized
from agentforge.systems.adamba.surgery.graft import FreshMixers, seeded
from agentforge.systems.adamba.surgery.streaming import EMBEDDING, SHARD_BYTES, main_dtype, open_adamba, write_adamba

FRESH = ("dt_bias", "A_log", "D", "conv1d.weight", "conv1d.bias")
"""Parameters of a mixer whose new entries start as a fresh mixer's do."""


def expand(source: Path, target: Path, shape: AdambaShape, seed: int, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a larger Adamba that computes what ``source`` computes. One tensor is in memory at a time.

    Args:
        source: checkpoint of an Adamba or FalconH1.
        target: an existing directory.
        shape: no size smaller than the source's.
        seed: of the new readers.
        shard_bytes: largest shard.

    Raises:
        UserError: a size would shrink or none would grow, or heads do not go together.
        CheckRefused: the source's tensors are not those of its config.
    """
    config, checkpoint = open_adamba(source)
    growth = Growth(checkpoint, config, expanded_config(config, shape), seed)
    write_adamba(target, growth.new, growth.dtype, growth.tensor, shard_bytes)


def expanded_config(config: Any, shape: AdambaShape) -> Any:
    """Return the config of the larger model; `expanded_from` has the sizes of the old one, `expansions` those of all.

    Raises:
        UserError: a size would shrink or none would grow, or heads do not go together.
    """
    old = AdambaShape.of(config)
    for name, size in asdict(shape).items():
        if size < getattr(old, name):
            raise UserError(
                f"expand: {name} would shrink from {getattr(old, name)} to {size}; to make a model smaller, use "
                "operation: slice or truncate"
            )
    if shape == old:
        raise UserError("expand: no size grows; set surgery.width above 1, or larger sizes in surgery.shape")
    new = resized(config, shape)
    new.expanded_from = asdict(old)
    new.expansions = [*(new.expansions or []), new.expanded_from]
    return new


class Growth:
    """The tensors of the larger model, each made from the old one's when it is asked for.

    Args:
        checkpoint: the old weights.
        old: their config.
        new: the larger model's.
        seed: of what is random; every tensor has its own generator.
    """

    def __init__(self, checkpoint: Checkpoint, old: Any, new: Any, seed: int) -> None:
        self.checkpoint = checkpoint
        self.old = old
        self.new = new
        self.seed = seed
        self.dtype = main_dtype(checkpoint)
        narrow = copy.deepcopy(new)
        narrow.hidden_size = 1  # of the fresh mixers only what does not read the residual stream is used
        self.mixers = FreshMixers(narrow, seed)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor of the larger model."""
        # Fill the larger tensor with new entries, then put the old tensor over its first rows and columns. The old
        # logits survive for three reasons. Old readers see new channels that are zero, because nothing writes to them
        # yet. New heads and units compute something, but their columns in the writers are zero. A new layer reads
        # like the layer it copies, but all its writers are zero, so it adds nothing.
        source = self._source(name)
        part = self.checkpoint.read(source)
        grown = self._new_entries(name, part)
        if source == name or not _writes(name):
            put(grown, index_of(name, self.old, self.new), part)
        return grown

    def _source(self, name: str) -> str:
        """Return the old tensor that a new one begins with: its own, or for a new layer that of one of the last."""
        words = name.split(".")
        if words[1] != "layers" or int(words[2]) < self.old.num_hidden_layers:
            return name
        # Counted from the end, so that the last new layer is a copy of the last old one.
        depth = int(self.old.num_hidden_layers)
        from_the_end = (self.new.num_hidden_layers - 1 - int(words[2])) % depth
        return ".".join([*words[:2], str(depth - 1 - from_the_end), *words[3:]])

    def _new_entries(self, name: str, old: torch.Tensor) -> torch.Tensor:
        """Return the larger tensor as it is where the old one is not."""
        shape = self._shape(name, old)
        if _writes(name):
            return torch.zeros(shape, dtype=self.dtype)
        if name.endswith("norm.weight"):  # multiplies a zero for now; the old ones' mean is the neutral start
            return torch.full(shape, float(old.float().mean()), dtype=self.dtype)
        if name.endswith(FRESH):
            return self.mixers.tensor(name).to(self.dtype)
        scale = float(torch.linalg.vector_norm(old, dtype=torch.float32)) / old.numel() ** 0.5
        # A tensor that is all zeros, as in a fresh graft, has no scale to match.
        drawn = torch.empty(shape, dtype=torch.float32)
        return drawn.normal_(0, scale or self.new.initializer_range, generator=seeded(self.seed, name)).to(self.dtype)

    def _shape(self, name: str, old: torch.Tensor) -> tuple[int, ...]:
        whole = index_of(name, self.new, self.new)
        sizes = zip(whole, old.shape, strict=True)
        return tuple(len(i) if isinstance(i, torch.Tensor) else size if i.stop is None else i.stop for i, size in sizes)


def _writes(name: str) -> bool:
    """Tell whether a tensor writes into the residual stream."""
    axes = axes_of(name)
    return name == EMBEDDING or (len(axes) == 2 and axes[0] == "hidden")
