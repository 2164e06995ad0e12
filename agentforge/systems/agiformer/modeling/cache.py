"""What a running text leaves behind, for each row: bytes of the open patch, the last latent, the layers' states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor
from transformers import Cache

from agentforge.systems.agiformer.modeling.layers import LayerState


@dataclass
class TextState:
    """Of each row; all tensors have the rows first.

    Attributes:
        seen: `(R,)` tokens read.
        recent: `(R, C)` the last of them, flush right.
        latent: `(R, D)` of the last complete patch.
        thought: `(R,)` thinking steps that it took.
        layers: of the global stack.
        decoder: of the decoder's layers; of a GRU its hidden state in place of the memory.
    """

    seen: Tensor
    recent: Tensor
    latent: Tensor
    thought: Tensor
    layers: list[LayerState]
    decoder: list[LayerState]


def over_rows(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a state with each of its tensors changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(over_rows(one, change) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: over_rows(getattr(value, field.name), change) for field in fields(value)})
    return value


def put_rows(value: Any, index: Tensor, new: Any) -> Any:
    """Return a state whose rows ``index`` `(r,)` are those of ``new``."""
    if isinstance(value, Tensor):
        return value.index_copy(0, index, new.to(value.dtype))
    if isinstance(value, (list, tuple)):
        return type(value)(put_rows(old, index, one) for old, one in zip(value, new, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: put_rows(getattr(value, f.name), index, getattr(new, f.name)) for f in fields(value)}
        return replace(value, **changed)
    return value


class AgiformerCache(Cache):
    """Holds a `TextState` for `generate`: rows can be chosen, repeated and reordered, but not cut short."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.state: TextState | None = None
        self.columns = 0  # of the batch, padding included: what `generate` counts

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.columns

    def reset(self) -> None:
        self.state, self.columns = None, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._change(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._change(lambda tensor: tensor[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._change(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.state is not None:
            self.state = over_rows(self.state, change)

    def crop(self, max_length: int) -> None:
        raise NotImplementedError("an AGIFORMER cannot take bytes back: its states have no history to return to")

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return False
