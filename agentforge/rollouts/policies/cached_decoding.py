"""Decoding many episodes at once with a key-value cache per episode that lives as long as the episode.

Compared with `generate` for every turn: an episode's earlier tokens are not read again, a beginning that prompts share
is read once, a free slot takes the next episode while the others go on, and a token costs one forward pass alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from agentforge.rollouts.policies.base import Completion, Decoder, Request, Sampling
from agentforge.rollouts.policies.ragged_cache import RaggedCache
from agentforge.rollouts.policies.sampling import draw_next

WORTH_SHARING = 16
"""Tokens that two prompts must share so that one waits a forward for the other to read them."""
GATHER = 4
"""Prompts are read together once one in so many slots has one: a forward for each of them would cost more."""


@dataclass
class DecodingRow:
    """A row of the cache, and the turn being written in it.

    Attributes:
        held: tokens whose keys are in the cache.
        unread: tokens that are to be read before the next is drawn; empty: no turn is begun.
        written, logprobs: the turn so far.
        room: tokens it may have.
    """

    held: list[int] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    room: int = 0
    random: Random = field(default_factory=Random)


class CachedDecoder(Decoder):
    """Decodes with a causal language model of transformers whose layers all attend to the whole sequence.

    Args:
        model: in evaluation mode; it is called and not changed. The caller switches gradients off.
        stop_ids: tokens that end a turn.
        sampling: how tokens are drawn; the room and the seed are each request's own.
        slots: episodes at once; a slot is a row of the cache.
        additive_mask: the model's attention adds its mask instead of selecting by it.

    Attributes:
        forwards, tokens_read: so far, padding not counted.
    """

    def __init__(
        self, model: Any, stop_ids: Sequence[int], sampling: Sampling, slots: int, additive_mask: bool = False
    ) -> None:
        self.model = model
        self.stop_ids = frozenset(stop_ids)
        self.sampling = sampling
        self.additive_mask = additive_mask
        self.cache = RaggedCache(slots)
        self.rows = [DecodingRow() for _ in range(slots)]
        self.forwards = 0
        self.tokens_read = 0

    def begin(self, slot: int, request: Request) -> None:
        # An episode comes back to its slot with all its tokens, most of which this row still holds: its own earlier
        # turns, or what another episode in this slot began with. Only the rest is read. The last token always is, even
        # if it is held: the logits after it are what the first token is drawn from.
        row = self.rows[slot]
        token_ids = list(request.token_ids)
        kept = min(common_length(row.held, token_ids), len(token_ids) - 1)
        row.held, row.unread = token_ids[:kept], token_ids[kept:]
        row.written, row.logprobs = [], []
        row.room, row.random = request.room, Random(request.seed)

    def advance(self) -> list[tuple[int, Completion]]:
        finished: list[tuple[int, Completion]] = []
        while not finished and any(row.unread for row in self.rows):
            finished = self._forward(self._next_rows())
        return finished

    # A row is in one of two states. It reads: a prompt, or what an environment has answered, many tokens at once. Or it
    # writes: its one unread token is the one drawn last. A forward is as wide as its widest row and shorter ones are
    # padded, so readers and writers never share one: fifty rows would be padded to a prompt of a thousand tokens for
    # the one that reads it. Who waits, and for how long, is decided here.
    def _next_rows(self) -> list[int]:
        """Return the rows of the next forward: those that read, if enough of them wait, else those that write."""
        begun = [index for index, row in enumerate(self.rows) if row.unread]
        waiting = [index for index in begun if len(self.rows[index].unread) > 1]
        if len(waiting) * GATHER >= len(begun):
            for index in waiting:
                self._copy_beginning(index)
            if readers := self._readers([index for index in waiting if len(self.rows[index].unread) > 1]):
                return readers
        return [index for index in begun if len(self.rows[index].unread) == 1]

    def _readers(self, waiting: list[int]) -> list[int]:
        """Return the rows that read now. The others wait: some for a beginning that one of these is about to read,
        some because they are short and would be padded to more than twice their length."""
        longest = max((len(self.rows[index].unread) for index in waiting), default=0)
        readers: list[int] = []
        for index in waiting:
            row = self.rows[index]
            ids = row.held + row.unread
            shared = max((common_length(self.rows[r].held + self.rows[r].unread, ids) for r in readers), default=0)
            if 2 * len(row.unread) >= longest and shared - len(row.held) < WORTH_SHARING:
                readers.append(index)
        return readers

    def _copy_beginning(self, index: int) -> None:
        """Copy from the row that holds most of this one's beginning, if that saves reading."""
        row = self.rows[index]
        if len(row.unread) <= WORTH_SHARING:
            return
        ids = row.held + row.unread
        lengths = [min(common_length(other.held, ids), len(ids) - 1) for other in self.rows]
        best = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[best] - len(row.held) >= WORTH_SHARING:
            self.cache.copy(best, index, len(row.held), lengths[best])
            row.held, row.unread = ids[: lengths[best]], ids[lengths[best] :]

    def _forward(self, indices: list[int]) -> list[tuple[int, Completion]]:
        """Read what the rows have not read and draw the next token of each; returns the turns that ended."""
        rows = [self.rows[index] for index in indices]
        self.forwards += 1
        self.tokens_read += sum(len(row.unread) for row in rows)
        first, last = indices[0], indices[-1]
        if last - first < 2 * len(indices):  # the few rows between are read as padding: cheaper than to gather
            logits = self._read(slice(first, last + 1), self.rows[first : last + 1], set(indices))
            logits = logits if last - first + 1 == len(indices) else logits[[index - first for index in indices]]
        else:
            logits = self._read(torch.tensor(indices, device=self.model.device), rows, None)
        uniforms = [row.random.random() for row in rows]
        contexts = (row.held + row.unread for row in rows)
        tokens, logprobs = draw_next(logits, self.sampling, uniforms, contexts)
        written = [self._write(*step) for step in zip(rows, tokens, logprobs, strict=True)]
        return [(index, turn) for index, turn in zip(indices, written, strict=True) if turn is not None]

    def _write(self, row: DecodingRow, token: int, logprob: float) -> Completion | None:
        # the token just drawn is unread: its keys enter the cache when the next one is drawn. A turn's last token
        # therefore is never held, and is read with the beginning of the next turn.
        row.held += row.unread
        row.unread = [token]
        row.written.append(token)
        row.logprobs.append(logprob)
        stopped = token in self.stop_ids
        if not stopped and len(row.written) < row.room:
            return None
        row.unread = []
        return Completion(row.written, stopped, row.logprobs)

    def _read(self, batch: slice | Tensor, rows: list[DecodingRow], only: set[int] | None) -> Tensor:
        """Read the rows' unread tokens; returns the logits `(B, V)` after the last of each.

        Args:
            only: indices of the rows that are read, the others are padding; None: all.
        """
        device = self.model.device
        indices = range(batch.start, batch.stop) if isinstance(batch, slice) else [0] * len(rows)
        unread = [row.unread if only is None or i in only else [] for i, row in zip(indices, rows, strict=True)]
        held = [len(row.held) for row in rows]
        width = max(map(len, unread))
        length = max(start + len(new) for start, new in zip(held, unread, strict=True) if new)
        # shorter rows are padded in front, so that the last token of each is in the last column
        ids = torch.tensor([[0] * (width - len(new)) + new for new in unread], device=device)
        starts = torch.tensor(held, device=device)[:, None]
        counts = torch.tensor([len(new) for new in unread], device=device)[:, None]
        offsets = torch.arange(-width, 0, device=device) + counts
        positions = torch.where(offsets >= 0, starts + offsets, -1)
        self.cache.plan(batch, positions, length)
        positions = positions.clamp(min=0)
        mask = torch.arange(length, device=device) <= positions[:, None, :, None]
        if self.additive_mask:
            lowest = torch.finfo(self.model.dtype).min
            mask = torch.zeros(mask.shape, dtype=self.model.dtype, device=device).masked_fill_(~mask, lowest)
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits


def common_length(a: list[int], b: list[int]) -> int:
    """Return how many first elements two lists share."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:
        return shorter
    low, high = 0, shorter  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low
