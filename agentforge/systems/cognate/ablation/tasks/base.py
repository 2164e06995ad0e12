"""What every task has, and how its tensors are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

UNLABELLED = -100
"""The label of a position without one, as everywhere in transformers."""


@dataclass(frozen=True)
class Batch:
    """Rows of one length.

    Labels follow the rule of language models: what the model says at position t is compared with ``labels[t + 1]``. So
    the loss of the real model trains these tasks without a special case. A label need not be the next token, though:
    where the answer must not be read by later positions, the input has a blank there and the label the answer.

    Attributes:
        input_ids: (B, T).
        labels: (B, T), `UNLABELLED` where nothing is asked.
        scored: (B, T) bool: labels that count for the accuracy; a label may be there for training alone.
    """

    input_ids: Tensor
    labels: Tensor
    scored: Tensor

    def rows(self, chosen: Tensor) -> Batch:
        """Return some of the rows."""
        return Batch(self.input_ids[chosen], self.labels[chosen], self.scored[chosen])


def batch_of(input_ids: Tensor, labels: Tensor) -> Batch:
    """Return a batch in which every label counts."""
    return Batch(input_ids, labels, labels != UNLABELLED)


class Task(Protocol):
    """A task, with what its accuracies have to be compared with."""

    @property
    def name(self) -> str:
        """As the tables have it."""
        ...

    @property
    def vocab_size(self) -> int:
        """Of the input and of the labels."""
        ...

    @property
    def chance(self) -> float:
        """Accuracy of a uniform guess among the possible answers."""
        ...

    @property
    def trivial(self) -> float:
        """Accuracy of the best strategy that does not solve the task."""
        ...

    @property
    def trivial_is(self) -> str:
        """What that strategy is."""
        ...

    def train_batch(self, rows: int, generator: torch.Generator) -> Batch:
        """Return rows to learn from; the generator is the run's own."""
        ...

    def test_batches(self) -> dict[str, Batch]:
        """Return held-out rows by name, the same for every run; the first one is the score."""
        ...

    def token(self, token: int) -> str:
        """Return a token as a picture shows it."""
        ...


def seeded(seed: int) -> torch.Generator:
    """Return a generator of its own for a seed."""
    return torch.Generator().manual_seed(seed)


TEST_SEED = 7_000_003
"""Seed of every test set. Runs have small seeds, so no training stream can begin at it."""
