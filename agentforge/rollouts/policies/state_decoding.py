"""Decoding with a cache whose layers carry states: of Mamba and other scans, of convolutions, of linear attention.

Keys are held for each token, so a row can be cut anywhere and padded. A state is what is left of all tokens: there is
one, behind the last token that was read. Three things follow.

* Rows that read together read equally many tokens. The longer ones go on by themselves; when only a few tokens are
  left, these ride along with the rows that write, one a forward.
* A row goes on only from all that it holds, or from nothing. Within an episode it always does (`CachedDecoder._write`);
  a caller that takes a turn back makes the row read again.
* A beginning that prompts share can only be copied from a row that stands at its end. So a row that reads it stops
  there, and a copy is put on the shelf: rows of the cache in which nobody plays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentforge.rollouts.policies.base import Completion, Sampling
from agentforge.rollouts.policies.cached_decoding import (
    GATHER,
    WORTH_SHARING,
    CachedDecoder,
    DecodingRow,
    common_length,
)

FEW = 16
"""Tokens, at most, that a row reads one by one beside the rows that write."""
SLOTS_PER_BEGINNING = 8
"""One beginning is on the shelf for so many slots, and one more: what two share must not drive out what all share."""


class StateDecoder(CachedDecoder):
    """Decodes with a causal language model of transformers some of whose layers carry a state.

    The arguments are `CachedDecoder`'s.
    """

    def __init__(self, model: Any, stop_ids: Sequence[int], sampling: Sampling, slots: int) -> None:
        beginnings = 1 + -(-slots // SLOTS_PER_BEGINNING)
        super().__init__(model, stop_ids, sampling, slots, spare=beginnings)
        self._shelf = list(range(slots, slots + beginnings))  # the one that was used last is last
        self._marks = [0] * slots  # behind how many tokens a row stops for a copy; 0: nowhere

    def _keep(self, slot: int, token_ids: list[int]) -> int:
        if kept := self._can_give(self.rows[slot], token_ids):
            return kept
        # Whatever it begins with that another row has read or is reading, a third may begin with too.
        texts = (row.held + row.unread for row in self.rows)
        shared = max(min(common_length(text, token_ids), len(token_ids) - 1) for text in texts)
        self._marks[slot] = shared if shared >= WORTH_SHARING else 0
        self.cache.clear(slot)
        return 0

    def _can_give(self, row: DecodingRow, token_ids: list[int]) -> int:
        held = len(row.held)
        return held if held < len(token_ids) and row.held == token_ids[:held] else 0

    def _next(self) -> dict[int, int]:
        begun = [index for index, row in enumerate(self.rows) if row.unread]
        # A row that rides along for n forwards writes nothing in them, which one of r rows feels as n/r forwards. To
        # read its tokens at once costs one.
        few = min(FEW, len(begun))
        waiting = self._with_more(begun, few)
        if len(waiting) * GATHER >= len(begun):
            for index in waiting:
                self._copy_beginning(index)
            if waiting := self._with_more(waiting, few):
                readers = self._readers(waiting)
                others = [index for index in waiting if index not in readers]
                return dict.fromkeys(readers, min(self._until_stop(reader, others) for reader in readers))
        short = [index for index in begun if len(self.rows[index].unread) <= few]
        return dict.fromkeys(short, min(len(self.rows[index].unread) for index in short))

    def _with_more(self, indices: list[int], few: int) -> list[int]:
        return [index for index in indices if len(self.rows[index].unread) > few]

    def _readers(self, waiting: list[int]) -> list[int]:
        """Return the rows that read now; the others wait for a beginning that one of these is about to read."""
        readers: list[int] = []
        for index in waiting:
            if not any(self._about_to_share(reader, index) for reader in readers):
                readers.append(index)
        return readers

    def _about_to_share(self, reader: int, index: int) -> int:
        """Return how many tokens a row will hold when another can copy from it, if that saves reading; else 0."""
        source, row = self.rows[reader], self.rows[index]
        ids = row.held + row.unread
        shared = min(common_length(source.held + source.unread, ids), len(ids) - 1)
        return shared if shared > len(source.held) and shared - len(row.held) >= WORTH_SHARING else 0

    def _until_stop(self, reader: int, others: list[int]) -> int:
        """Return how many tokens a row reads until others can copy from it, or until its prompt's end."""
        held = len(self.rows[reader].held)
        stops = [self._marks[reader], *(self._about_to_share(reader, index) for index in others)]
        self._marks[reader] = min((stop for stop in stops if stop > held), default=0)
        return self._marks[reader] - held if self._marks[reader] else len(self.rows[reader].unread)

    def _copy_beginning(self, index: int) -> None:
        row = self.rows[index]
        held = len(row.held)
        super()._copy_beginning(index)
        if len(row.held) == held:
            return
        if self._marks[index] - len(row.held) < WORTH_SHARING:
            self._marks[index] = 0
        for place in self._shelf:
            if self.rows[place].held == row.held:
                self._shelf.append(self._shelf.pop(self._shelf.index(place)))
                break

    def _forward(self, counts: dict[int, int]) -> list[tuple[int, Completion]]:
        finished = super()._forward(counts)
        for index in counts:
            if self._marks[index] and len(self.rows[index].held) == self._marks[index]:
                self._marks[index] = 0
                self._put_on_shelf(index)
        return finished

    def _put_on_shelf(self, index: int) -> None:
        """Keep a copy of a row as it stands, in place of the beginning that was not used for longest."""
        held = self.rows[index].held
        if any(self.rows[place].held == held for place in self._shelf):
            return
        place = self._shelf.pop(0)
        self._shelf.append(place)
        self.cache.copy(index, place, 0, len(held))
        self.rows[place].held = list(held)
