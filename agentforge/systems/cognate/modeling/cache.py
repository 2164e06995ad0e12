"""What a Cognate remembers of the tokens before: one slot for each *run* of a layer, not for each layer.

A layer of the core is run in several iterations, and each reads states of another depth. So a token has keys, values
and memory writes in every slot, `config.layer_calls` in all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from agentforge.errors import UserError
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.context import Columns
from agentforge.systems.cognate.modeling.neural_memory import MemoryState


class Slot(CacheLayerMixin):
    """What one run of a layer remembers.

    Attributes:
        keys, values: `(B, heads, S, head_dim)` of the last tokens.
        memory: state behind all tokens; None: the layer has none, or nothing was read.
        persistent: keys and values `(1, heads, P, head_dim)` of the persistent tokens, which follow from the weights.
    """

    is_croppable = False
    is_sliding = True

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window
        self.memory: MemoryState | None = None
        self.persistent: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append new keys and values, and return all of them; `CognateCache.append` drops what is out of the window."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.entries()
        self.keys, self.values = torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)
        return self.entries()

    def entries(self) -> tuple[Tensor, Tensor]:
        """Return the keys and values that are there."""
        if self.keys is None or self.values is None:
            raise RuntimeError("the cache has taken note of tokens whose keys a layer never gave it")
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def get_max_length(self) -> int:
        return self.window

    def map(self, change: Any) -> None:
        """Replace every tensor by what `change` makes of it."""
        if self.is_initialized:
            self.keys, self.values = change(self.keys), change(self.values)
        if self.memory is not None:
            self.memory = self.memory.map(change)

    def reset(self) -> None:
        self.keys = self.values = self.memory = self.persistent = None
        self.is_initialized = False


class CognateCache(Cache):
    """All slots, and which tokens their keys belong to. State is kept for each row, and never in the model."""

    def __init__(self, config: CognateConfig) -> None:
        self.slots = [Slot(config.sliding_window) for _ in range(config.layer_calls)]
        super().__init__(layers=self.slots)  # type: ignore[arg-type]
        self.window = config.sliding_window
        self.columns: Columns | None = None
        self.seen = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many columns were read so far; older ones than the window sees are no longer there."""
        return self.seen

    def append(self, new: Columns) -> None:
        """Take note of the tokens that every slot was just given, and drop what no later token sees."""
        self.seen += new.rank.shape[1]
        self.columns = new if self.columns is None else self.columns.followed_by(new)
        # Behind the next token, a key is out of the window if `window - 1` real tokens followed it. Columns are dropped
        # from the left as long as this is so in every row.
        reach = self.columns.rank[:, -1:] - self.columns.rank
        unseen = int((reach >= self.window - 1).all(0).long().cumprod(0).sum())
        # the last column stays, it knows how many tokens there were
        unseen = min(unseen, self.columns.rank.shape[1] - 1)
        if unseen:
            self.columns = Columns(self.columns.rank[:, unseen:], self.columns.document[:, unseen:])
            for slot in self.slots:
                keys, values = slot.entries()
                slot.keys, slot.values = keys[:, :, unseen:], values[:, :, unseen:]

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: the memory does not know what it was before a token was written.

        Raises:
            UserError: always, but for 0 tokens.
        """
        if tokens_to_remove:
            raise UserError(
                "what a Cognate's memory has read cannot be taken back; decode without an assistant model, and make "
                "the cache anew for a shorter text"
            )

    def detach(self) -> CognateCache:
        """Cut the graph, in place: what follows learns from this state, but not through it."""
        for slot in self.slots:
            slot.map(torch.Tensor.detach)
            slot.persistent = None  # learned, so they are computed anew for what follows
        return self

    def select(self, rows: Tensor) -> None:
        """Keep rows of the batch, in this order; a row may be there more than once."""
        for slot in self.slots:
            slot.map(lambda t: t.index_select(0, rows.to(t.device)))
        if self.columns is not None:
            self.columns = self.columns.index_select(rows.to(self.columns.rank.device))

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.columns is not None:
            rows = torch.arange(len(self.columns.rank), device=self.columns.rank.device)
            self.select(rows.repeat_interleave(repeats))

    def reset(self) -> None:
        super().reset()
        self.columns, self.seen = None, 0
