"""x + y mod p from half of all pairs: the task on which grokking was found (Power et al., arXiv 2201.02177)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from agentforge.systems.cognate.ablation.tasks.base import TEST_SEED, UNLABELLED, Batch, batch_of, seeded


@dataclass(frozen=True)
class ModularAddition:
    """All pairs of numbers below ``modulus``; a share of them is trained on, and the rest is the test.

    A model knows the training half by heart early. The other half is right only after it has found the circle: what is
    measured is how many steps that takes.
    """

    modulus: int = 59
    train_share: float = 0.5
    name: ClassVar[str] = "modular addition"
    trivial_is: ClassVar[str] = "the training pairs by heart, a guess elsewhere"

    @property
    def vocab_size(self) -> int:
        return self.modulus + 2  # the numbers, the sign of equality, and the end

    @property
    def chance(self) -> float:
        return 1 / self.modulus

    @property
    def trivial(self) -> float:
        # x + y = y + x: of an unseen pair the swapped one was trained on with probability `train_share`.
        return self.train_share + (1 - self.train_share) * self.chance

    @cached_property
    def _halves(self) -> tuple[Batch, Batch]:
        x, y = torch.cartesian_prod(torch.arange(self.modulus), torch.arange(self.modulus)).T
        equals, end = torch.full_like(x, self.modulus), torch.full_like(x, self.modulus + 1)
        input_ids = torch.stack([x, y, equals, end], 1)
        labels = torch.full_like(input_ids, UNLABELLED)
        labels[:, -1] = (x + y) % self.modulus
        everything = batch_of(input_ids, labels)
        # One split for all seeds: otherwise a lucky split would look like a good optimiser.
        order = torch.randperm(len(x), generator=seeded(TEST_SEED))
        cut = round(self.train_share * len(x))
        return everything.rows(order[:cut]), everything.rows(order[cut:])

    def train_batch(self, rows: int, generator: torch.Generator) -> Batch:
        train = self._halves[0]
        return train.rows(torch.randint(len(train.input_ids), (rows,), generator=generator))

    def test_batches(self) -> dict[str, Batch]:
        train, held_out = self._halves
        return {"held out": held_out, "trained": train}

    def token(self, token: int) -> str:
        return {self.modulus: "=", self.modulus + 1: "end"}.get(token, str(token))
