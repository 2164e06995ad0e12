"""Decoding many episodes at once with a cache per episode that lives as long as the episode.

Compared with `generate` for every turn: an episode's earlier tokens are not read again, a beginning that prompts share
is read once, a free slot takes the next episode while the others go on, and a token costs one forward pass alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agentforge.models.ragged_cache import RaggedCache, read_rows
from agentforge.rollouts.policies.base import Completion, Decoder, Request, Sampling
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
        spare: rows of the cache beside them.

    Attributes:
        forwards, tokens_read: so far, padding not counted.
    """

    def __init__(self, model: Any, stop_ids: Sequence[int], sampling: Sampling, slots: int, spare: int = 0) -> None:
        self.model = model
        self.stop_ids = frozenset(stop_ids)
        self.sampling = sampling
        self.cache = RaggedCache(slots + spare, model.config)
        self.rows = [DecodingRow() for _ in range(slots + spare)]
        self.forwards = 0
        self.tokens_read = 0

    def begin(self, slot: int, request: Request) -> None:
        # An episode comes back to its slot with all its tokens, most of which this row still holds: its own earlier
        # turns, or what another episode in this slot began with. Only the rest is read. The last token always is, even
        # if it is held: the logits after it are what the first token is drawn from.
        row = self.rows[slot]
        token_ids = list(request.token_ids)
        kept = self._keep(slot, token_ids)
        row.held, row.unread = token_ids[:kept], token_ids[kept:]
        row.written, row.logprobs = [], []
        row.room, row.random = request.room, Random(request.seed)

    def advance(self) -> list[tuple[int, Completion]]:
        finished: list[tuple[int, Completion]] = []
        while not finished and any(row.unread for row in self.rows):
            finished = self._forward(self._next())
        return finished

    def _keep(self, slot: int, token_ids: list[int]) -> int:
        """Return how many tokens of a turn's prompt its row holds already, and goes on from."""
        return min(common_length(self.rows[slot].held, token_ids), len(token_ids) - 1)

    # A row is in one of two states. It reads: a prompt, or what an environment has answered, many tokens at once. Or it
    # writes: its one unread token is the one drawn last. A forward is as wide as its widest row and shorter ones are
    # padded, so readers and writers never share one: fifty rows would be padded to a prompt of a thousand tokens for
    # the one that reads it. Who waits, and for how long, is decided here.
    def _next(self) -> dict[int, int]:
        """Return the rows of the next forward, those that read, if enough of them wait, else those that write; and
        how many tokens each reads."""
        begun = [index for index, row in enumerate(self.rows) if row.unread]
        waiting = [index for index in begun if len(self.rows[index].unread) > 1]
        if len(waiting) * GATHER >= len(begun):
            for index in waiting:
                self._copy_beginning(index)
            if readers := self._readers([index for index in waiting if len(self.rows[index].unread) > 1]):
                return {index: len(self.rows[index].unread) for index in readers}
        return {index: 1 for index in begun if len(self.rows[index].unread) == 1}

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
        lengths = [self._can_give(other, ids) for other in self.rows]
        best = max(range(len(lengths)), key=lengths.__getitem__)
        if lengths[best] - len(row.held) >= WORTH_SHARING:
            self.cache.copy(best, index, len(row.held), lengths[best])
            row.held, row.unread = ids[: lengths[best]], ids[lengths[best] :]

    def _can_give(self, row: DecodingRow, token_ids: list[int]) -> int:
        """Return how many first tokens of a prompt can be copied from a row."""
        return min(common_length(row.held, token_ids), len(token_ids) - 1)

    def _forward(self, counts: dict[int, int]) -> list[tuple[int, Completion]]:
        """Read so many tokens of each row, and draw the next one where none is left; returns the turns that ended."""
        rows = [self.rows[index] for index in counts]
        new = [row.unread[:count] for row, count in zip(rows, counts.values(), strict=True)]
        logits = read_rows(self.model, self.cache, list(counts), new, [len(row.held) for row in rows])
        self.forwards += 1
        self.tokens_read += sum(map(len, new))
        for row, tokens in zip(rows, new, strict=True):
            row.held += tokens
            row.unread = row.unread[len(tokens) :]
        drawing = [place for place, row in enumerate(rows) if not row.unread]
        if not drawing:
            return []
        logits = logits if len(drawing) == len(rows) else logits[drawing]
        uniforms = [rows[place].random.random() for place in drawing]
        tokens, logprobs = draw_next(logits, self.sampling, uniforms, (rows[place].held for place in drawing))
        indices = list(counts)
        finished = []
        for place, token, logprob in zip(drawing, tokens, logprobs, strict=True):
            if (turn := self._write(rows[place], token, logprob)) is not None:
                finished.append((indices[place], turn))
        return finished

    def _write(self, row: DecodingRow, token: int, logprob: float) -> Completion | None:
        # The token just drawn is unread: it enters the cache when the next one is drawn. A turn's last token therefore
        # is never held, and is read with the beginning of the next turn. So what is held is certain: no turn that goes
        # on ever takes a token of it back, which a state could not do.
        row.unread = [token]
        row.written.append(token)
        row.logprobs.append(logprob)
        stopped = token in self.stop_ids
        if not stopped and len(row.written) < row.room:
            return None
        row.unread = []
        return Completion(row.written, stopped, row.logprobs)


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
