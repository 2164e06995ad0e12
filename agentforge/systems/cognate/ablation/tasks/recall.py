"""Associative recall: key-value pairs, noise, then keys again; what was the value?

Sliding-window attention cannot see the pairs any more when the keys are asked for, so only something that carries state
(a memory), or attention over everything, can answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from agentforge.systems.cognate.ablation.tasks.base import TEST_SEED, UNLABELLED, Batch, seeded

# Disjoint ranges of tokens, so that a token's kind is never in doubt: 0 ends the row.
KEYS = range(1, 25)
VALUES = range(25, 49)
NOISE = range(49, 63)


@dataclass(frozen=True)
class Recall:
    """``pairs`` pairs, a gap of noise, ``queries`` keys.

    Attributes:
        gaps: shortest and longest gap of training; each batch has one.
        test_gaps: the first is the score; longer ones than in training show whether what was learnt reaches further.
    """

    pairs: int = 4
    queries: int = 4
    gaps: tuple[int, int] = (16, 32)
    test_gaps: tuple[int, ...] = (32, 64, 128, 256)
    test_rows: int = 512
    name: ClassVar[str] = "associative recall"
    vocab_size: ClassVar[int] = 64
    chance: ClassVar[float] = 1 / len(VALUES)
    trivial_is: ClassVar[str] = "one of the values that were shown"

    @property
    def trivial(self) -> float:
        """Accuracy of a bag of values: it knows what was shown, not what belongs to which key."""
        # Two pairs may have the same value, so a guess is right a little more often than 1 of `pairs`:
        # its own pair, or another one that happens to agree.
        return (1 + (self.pairs - 1) * self.chance) / self.pairs

    def train_batch(self, rows: int, generator: torch.Generator) -> Batch:
        shortest, longest = self.gaps
        gap = int(torch.randint(shortest, longest + 1, (), generator=generator))
        return self.batch(rows, gap, generator)

    def test_batches(self) -> dict[str, Batch]:
        return {f"gap {gap}": self.batch(self.test_rows, gap, seeded(TEST_SEED)) for gap in self.test_gaps}

    def token(self, token: int) -> str:
        for letter, kind in (("k", KEYS), ("v", VALUES), ("", NOISE)):
            if token in kind:
                return f"{letter}{token - kind.start}" if letter else "·"
        return "end"

    def batch(self, rows: int, gap: int, generator: torch.Generator) -> Batch:
        """Return rows with one gap: ``k v k v ... noise ... q a q a q a q a 0``; only the first answer is scored.

        Traps that were met on the way here:

        - Queries are drawn WITH replacement. Without, each value is asked for once, and a bag of values that crosses
          off what it has said reaches 52-57 % without knowing which value belongs to which key.
        - All answers are trained on, since from repeated keys a model first learns, within its window, what a key and
          its value are; without that the memory stays a bag of values for as long as we cared to wait. But only the
          first is scored: a repeated key can be copied from a few tokens ago, and with what has been asked some values
          can be ruled out. Both need no memory: together they are worth up to half of the answers.
        - In the model, one convolution shared by queries, keys and values does not learn within 1,500 steps to bind a
          key to the token after it. Three separate ones do.
        """
        keys = torch.stack([torch.randperm(len(KEYS), generator=generator)[: self.pairs] for _ in range(rows)])
        keys = keys + KEYS.start
        values = torch.randint(VALUES.start, VALUES.stop, (rows, self.pairs), generator=generator)
        noise = torch.randint(NOISE.start, NOISE.stop, (rows, gap), generator=generator)
        asked = torch.randint(self.pairs, (rows, self.queries), generator=generator)
        answers = values.gather(1, asked)
        shown = torch.stack([keys, values], -1).flatten(1)
        tail = torch.stack([keys.gather(1, asked), answers], -1).flatten(1)
        input_ids = torch.cat([shown, noise, tail], 1)
        labels, scored = torch.full_like(input_ids, UNLABELLED), torch.zeros_like(input_ids, dtype=torch.bool)
        first = 2 * self.pairs + gap + 1
        labels[:, first::2] = answers
        scored[:, first] = True
        return Batch(input_ids, labels, scored)
