"""The running product in S3, the permutations of three things: after every token, where are we now?

It is the smallest task whose state cannot be added up: the group is not commutative, so the order of all tokens
matters, and a network of fixed depth gets only so far along the row. That makes it a test of depth, and of loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import torch
from torch import Tensor

from agentforge.systems.cognate.ablation.tasks.base import TEST_SEED, UNLABELLED, Batch, batch_of, seeded

ELEMENTS = list(permutations(range(3)))
END = len(ELEMENTS)


def product_table() -> Tensor:
    """Return (6, 6): the element that is reached from the first one by doing the second one after it."""
    number = {element: i for i, element in enumerate(ELEMENTS)}
    return torch.tensor([[number[tuple(then[i] for i in first)] for then in ELEMENTS] for first in ELEMENTS])


@dataclass(frozen=True)
class RunningProduct:
    """Rows of ``length`` elements; the label of each is the product so far."""

    length: int = 16
    test_rows: int = 512
    name: ClassVar[str] = "S3 running product"
    vocab_size: ClassVar[int] = len(ELEMENTS) + 1
    chance: ClassVar[float] = 1 / len(ELEMENTS)
    trivial_is: ClassVar[str] = "the first product is the first element; a guess after that"

    @property
    def trivial(self) -> float:
        # From the second token on every product is equally likely, whatever one of its factors is.
        return (1 + (self.length - 1) * self.chance) / self.length

    def train_batch(self, rows: int, generator: torch.Generator) -> Batch:
        elements = torch.randint(len(ELEMENTS), (rows, self.length), generator=generator)
        table, products = product_table(), [elements[:, 0]]
        for t in range(1, self.length):
            products.append(table[products[-1], elements[:, t]])
        # Shifted by one as in a language model: the product of t tokens is what the model says after the t-th.
        end = torch.full((rows, 1), END)
        unlabelled = torch.full((rows, 1), UNLABELLED)
        return batch_of(torch.cat([elements, end], 1), torch.cat([unlabelled, torch.stack(products, 1)], 1))

    def test_batches(self) -> dict[str, Batch]:
        return {"held out": self.train_batch(self.test_rows, seeded(TEST_SEED))}

    def token(self, token: int) -> str:
        return "".join(str(i + 1) for i in ELEMENTS[token]) if token < END else "end"
