"""A cache whose rows have different lengths, are refilled one by one, and copy a common beginning.

A row's keys stand at positions 0, 1, 2 ... without gaps, whatever the rows beside it hold; which of them a token may
see is said by the mask. So nothing is ever padded, moved or concatenated while decoding.

A layer that carries a state (of a scan, a convolution, a linear attention) has one for each row, behind the last token
that the row has read. It has no positions: it cannot be cut short, and padding would run through it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PretrainedConfig
from transformers.cache_utils import LinearAttentionCacheLayerMixin

GROWTH = 256
"""Positions that are allocated at once."""


class RaggedCache(Cache):
    """Keys, values and states of ``rows`` sequences. One forward reads some of the rows; `reading` says which.

    Args:
        rows: sequences it holds.
        config: of the model; it says which layers carry a state.

    Attributes:
        carries_states: rows read equally many tokens at once, and are never cut short.
        additive_mask: the model's attention adds its mask instead of selecting by it.
    """

    def __init__(self, rows: int, config: PretrainedConfig) -> None:
        # transformers' own layers: a model looks into them for the states of the rows that it reads
        super().__init__(layers=DynamicCache(config=config).layers)
        self.rows = rows
        self.additive_mask = config._attn_implementation == "eager"
        self.capacity = 0
        self._keys: dict[int, Tensor] = {}  # by layer: (rows, capacity + 1, heads, head_dim); padding goes to the last
        self._values: dict[int, Tensor] = {}
        self.carries_states = carries_states(config)
        self._states = [
            _State(layer, states, index)
            for layer in _carrying(self.layers)
            for states in (layer.conv_states, layer.recurrent_states)
            for index in states
        ]
        self._batch: slice | Tensor = slice(0)
        self._rows_column = torch.empty(0)
        self._positions = torch.empty(0)
        self._length = 0

    @contextmanager
    def reading(self, batch: slice | Tensor, positions: Tensor, length: int, spared: Sequence[int]) -> Iterator[None]:
        """Be what the model reads with in one forward.

        Args:
            batch: the rows of the cache that its rows are: a slice, or their indices `(B,)`.
            positions: `(B, T)` where the new keys go; negative for padding.
            length: positions that can be seen.
            spared: rows of the slice that are padding from end to end, and keep their states.
        """
        if length > self.capacity:
            self._grow(-(-length // GROWTH) * GROWTH)
        rows = torch.arange(self.rows, device=positions.device)[batch] if isinstance(batch, slice) else batch
        self._batch, self._rows_column = batch, rows[:, None]
        self._positions = positions.where(positions >= 0, self.capacity)
        self._length = length
        kept = [state.show(batch, spared) for state in self._states]
        yield
        for state, before in zip(self._states, kept, strict=True):
            state.take(self.rows, batch, spared, before)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values `(B, heads, T, head_dim)`; returns all that can be seen, of the same form."""
        if layer_idx not in self._keys:
            self._keys[layer_idx] = self._empty(key_states)
            self._values[layer_idx] = self._empty(value_states)
        device = key_states.device  # of this layer: a large model lies on several
        rows, positions = self._rows_column.to(device), self._positions.to(device)
        batch = self._batch if isinstance(self._batch, slice) else self._batch.to(device)
        found = []
        for store, states in ((self._keys[layer_idx], key_states), (self._values[layer_idx], value_states)):
            store[rows, positions] = states.transpose(1, 2)
            found.append(store[batch, : self._length].transpose(1, 2))
        return found[0], found[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._length

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Copy the positions ``start`` to ``end`` of one row to another, and its states, which are behind its last."""
        for store in (*self._keys.values(), *self._values.values()):
            store[target, start:end] = store[source, start:end]
        for state in self._states:
            if state.store is not None:
                state.store[target] = state.store[source]

    def clear(self, row: int) -> None:
        """Take a row's states back to where nothing was read. Keys need no clearing: the mask hides them."""
        for state in self._states:
            if state.store is not None:
                state.store[row] = 0

    def _empty(self, states: Tensor) -> Tensor:
        heads, size = states.shape[1], states.shape[3]
        # zeros: what is masked out counts 0 times its value, which must be a number
        return states.new_zeros(self.rows, self.capacity + 1, heads, size)

    def _grow(self, capacity: int) -> None:
        for stores in (self._keys, self._values):
            for layer, store in stores.items():
                stores[layer] = store.new_zeros(self.rows, capacity + 1, *store.shape[2:])
                stores[layer][:, : self.capacity] = store[:, : self.capacity]
        self.capacity = capacity


class _State:
    """One state of a layer, of all rows. The layer itself holds those of the rows that are read.

    Attributes:
        store: `(rows, ...)`; None as long as no forward has shown its shape.
    """

    def __init__(self, layer: LinearAttentionCacheLayerMixin, held: dict[int, Tensor | None], index: int) -> None:
        self.layer = layer
        self.held = held
        self.index = index
        self.store: Tensor | None = None
        self._shown: Tensor | None = None

    def show(self, batch: slice | Tensor, spared: Sequence[int]) -> Tensor | None:
        """Let the layer hold the rows' states: a view of them where they lie side by side, so that what the model
        writes in place is written here. Returns those of the spared rows."""
        if self.store is None:
            return None
        batch = batch if isinstance(batch, slice) else batch.to(self.store.device)
        self.held[self.index] = self._shown = self.store[batch]
        # a row that has read nothing has zeros, which is what a model begins with
        self.layer.has_previous_state[self.index] = True
        return self.store[list(spared)] if spared else None

    def take(self, rows: int, batch: slice | Tensor, spared: Sequence[int], before: Tensor | None) -> None:
        """Take over what the model made of the states that it was shown."""
        made = self.held[self.index]
        if made is None:  # this layer has no state of this kind
            return
        if self.store is None:
            self.store = made.new_zeros(rows, *made.shape[1:])
        if isinstance(batch, Tensor) or made is not self._shown:
            self.store[batch if isinstance(batch, slice) else batch.to(self.store.device)] = made
        if spared:
            self.store[list(spared)] = 0 if before is None else before


def _carrying(layers: Sequence[Any]) -> list[LinearAttentionCacheLayerMixin]:
    return [layer for layer in layers if isinstance(layer, LinearAttentionCacheLayerMixin)]


def carries_states(config: PretrainedConfig) -> bool:
    """Tell whether a layer of the model carries a state from token to token, by the cache that transformers makes."""
    return bool(_carrying(DynamicCache(config=config).layers))


def read_rows(
    model: Any, cache: RaggedCache, rows: Sequence[int], unread: Sequence[Sequence[int]], held: Sequence[int]
) -> Tensor:
    """Read tokens of some rows in one forward; returns the logits `(R, V)` after the last of each row.

    Args:
        model: in evaluation mode.
        cache: is brought up to date.
        rows: of the cache, rising.
        unread: the tokens of each; of equal number, if the cache carries states.
        held: how many tokens of each the cache holds before them.
    """
    width = max(map(len, unread))
    span = range(rows[0], rows[-1] + 1)
    # The few rows between are read as padding: cheaper than to gather the others. Not so where a state would take all
    # of a long padding in, only for it to be put back.
    side_by_side = len(span) <= 2 * len(rows) and (width == 1 or len(span) == len(rows) or not cache.carries_states)
    new, starts = dict(zip(rows, unread, strict=True)), dict(zip(rows, held, strict=True))
    read = span if side_by_side else rows
    batch = slice(span.start, span.stop) if side_by_side else torch.tensor(list(rows), device=model.device)
    # shorter rows are padded in front, so that the last token of each is in the last column
    ids = torch.tensor([[0] * (width - len(new.get(r, ()))) + list(new.get(r, ())) for r in read], device=model.device)
    positions = _positions([len(new.get(r, ())) for r in read], [starts.get(r, 0) for r in read], width, model.device)
    length = max(start + len(tokens) for start, tokens in zip(held, unread, strict=True))
    with cache.reading(batch, positions, length, [r for r in read if r not in new]):
        positions = positions.clamp(min=0)
        mask = torch.arange(length, device=model.device) <= positions[:, None, :, None]
        if cache.additive_mask:
            lowest = torch.finfo(model.dtype).min
            mask = torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(~mask, lowest)
        output = model(input_ids=ids, attention_mask=mask, **_inputs(model, positions, cache), logits_to_keep=1)
    logits: Tensor = output.logits[:, -1]
    return logits if len(read) == len(rows) else logits[[r - span.start for r in rows]]


def _positions(counts: Sequence[int], starts: Sequence[int], width: int, device: torch.device) -> Tensor:
    """Return where each row's new tokens stand `(B, T)`, -1 for the padding in front of them."""
    offsets = torch.arange(-width, 0, device=device) + torch.tensor(counts, device=device)[:, None]
    return torch.where(offsets >= 0, torch.tensor(starts, device=device)[:, None] + offsets, -1)


def _inputs(model: Any, positions: Tensor, cache: RaggedCache) -> dict[str, Any]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    model_class: Any = type(base)
    if _attends(model_class):
        return {"position_ids": positions, "past_key_values": cache, "use_cache": True}
    return {"cache_params": cache, "use_cache": True}


@functools.cache
def _attends(model_class: Any) -> bool:
    """Tell whether a model has positions and calls its cache by the usual name: a pure Mamba does not."""
    names = inspect.signature(model_class.forward).parameters
    return "past_key_values" in names or "cache_params" not in names
