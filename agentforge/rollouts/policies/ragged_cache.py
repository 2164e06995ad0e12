"""A key-value cache whose rows have different lengths, are refilled one by one, and copy a common beginning.

A row's keys stand at positions 0, 1, 2 ... without gaps, whatever the rows beside it hold; which of them a token may
see is said by the mask. So nothing is ever padded, moved or concatenated while decoding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

GROWTH = 256
"""Positions that are allocated at once."""


class RaggedCache(Cache):
    """Keys and values of ``rows`` sequences. One forward reads some of the rows; `plan` says which, and where.

    Args:
        rows: sequences it holds.
    """

    def __init__(self, rows: int) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.capacity = 0
        self._keys: list[Tensor] = []  # a layer: (rows, capacity + 1, heads, head_dim); padding is written to the last
        self._values: list[Tensor] = []
        self._batch: slice | Tensor = slice(0)
        self._rows_column = torch.empty(0)
        self._positions = torch.empty(0)
        self._length = 0

    def plan(self, batch: slice | Tensor, positions: Tensor, length: int) -> None:
        """Say what the next forward reads.

        Args:
            batch: the rows of the cache that its rows are: a slice, or their indices `(B,)`.
            positions: `(B, T)` where the new keys go; negative for padding.
            length: positions that can be seen.
        """
        if length > self.capacity:
            self._grow(-(-length // GROWTH) * GROWTH)
        rows = torch.arange(self.rows, device=positions.device)[batch] if isinstance(batch, slice) else batch
        self._batch, self._rows_column = batch, rows[:, None]
        self._positions = positions.where(positions >= 0, self.capacity)
        self._length = length

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values `(B, heads, T, head_dim)`; returns all that can be seen, of the same form."""
        if layer_idx == len(self._keys):
            self._keys.append(self._empty(key_states))
            self._values.append(self._empty(value_states))
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
        """Copy the positions ``start`` to ``end`` of one row to another."""
        for store in (*self._keys, *self._values):
            store[target, start:end] = store[source, start:end]

    def _empty(self, states: Tensor) -> Tensor:
        heads, size = states.shape[1], states.shape[3]
        # zeros: what is masked out counts 0 times its value, which must be a number
        return states.new_zeros(self.rows, self.capacity + 1, heads, size)

    def _grow(self, capacity: int) -> None:
        for stores in (self._keys, self._values):
            for layer, store in enumerate(stores):
                stores[layer] = store.new_zeros(self.rows, capacity + 1, *store.shape[2:])
                stores[layer][:, : self.capacity] = store[:, : self.capacity]
        self.capacity = capacity
