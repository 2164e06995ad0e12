"""Sets of models read the same rows, batch by batch, and only sums over rows are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from agentforge.errors import CheckRefused
from agentforge.evaluation.diversity.behaviour import Behaviour
from agentforge.evaluation.losses.measure import Batch, HeldOut, batches, collate
from agentforge.evaluation.statistics.diversity import SetSums, pairs
from agentforge.evaluation.statistics.intervals import Array
from agentforge.models.row_isolation import require

CHUNK = 1 << 24
"""Probabilities that a distance is computed on at once: 128 MiB in float64."""


@torch.no_grad()
def measure_sets(sets: Mapping[str, Sequence[Behaviour]], rows: HeldOut, *, batch_size: int = 16) -> dict[str, SetSums]:
    """Let every model of every set read the rows.

    Args:
        sets: by name, each with at least two models of one vocabulary.
        rows: held-out.
        batch_size: rows at once; fewer where the logits of a set would be too many.

    Raises:
        CheckRefused: the models have vocabularies of different sizes, or the rows hold tokens beyond them.
    """
    everyone = [model for models in sets.values() for model in models]
    vocabulary = _vocabulary(everyone, rows)
    for one in everyone:
        require(one.model, "right", "diversity of rows that are read together")
    sums = {name: _Sums(len(models), len(rows.ids), rows.tokens) for name, models in sets.items()}
    # All models of a set must be compared token by token, so their logits are held together.
    at_once = vocabulary * (1 + max(map(len, sets.values())))
    for numbers in batches(rows, batch_size, at_once):
        for name, models in sets.items():
            sums[name].add(models, collate(rows, numbers, models[0].model.device))
    return {name: found.finished() for name, found in sums.items()}


def _vocabulary(models: Sequence[Behaviour], rows: HeldOut) -> int:
    sizes = {int(one.model.get_output_embeddings().weight.shape[0]) for one in models}
    if len(sizes) > 1:
        raise CheckRefused(
            f"evaluate.diversity: the models have vocabularies of {', '.join(map(str, sorted(sizes)))} tokens; only "
            "models with one tokenizer can be compared token by token"
        )
    (size,) = sizes
    if (largest := max(max(row) for row in rows.ids)) >= size:
        raise CheckRefused(
            f"the rows contain token {largest}, but the models have only {size}; they were made with a different "
            "tokenizer from the recipe's data"
        )
    return size


class _Sums:
    """What has been added up of one set."""

    def __init__(self, models: int, rows: int, tokens: Array) -> None:
        self.rows, self.tokens, self.pairs = rows, tokens, pairs(models)
        self.of_models = {"correct": np.zeros((rows, models))}
        self.of_pairs = {name: np.zeros((rows, len(self.pairs))) for name in ("disagree", "distance", "both_wrong")}
        self.vote, self.oracle = np.zeros(rows), np.zeros(rows)
        self.quantities: dict[str, Array] = {}

    def add(self, models: Sequence[Behaviour], batch: Batch) -> None:
        """Let the models read a batch, one after the other, and add what they say."""
        said: list[Tensor] = []
        known: list[dict[str, Tensor]] = []
        for one in models:
            reading = one.read(batch.inputs)
            said.append(reading.logits[:, :-1][batch.counted].float().log_softmax(-1))
            known.append({name: values[:, :-1][batch.counted] for name, values in reading.quantities.items()})
        # A quantity counts only where all models of the set tell it: a spread over some of them means nothing.
        for name in set.intersection(*(set(one) for one in known)):
            total = self.quantities.setdefault(name, np.zeros((self.rows, len(models))))
            for place, one_knows in enumerate(known):
                total[:, place] += self._per_row(batch, one_knows[name])
        likeliest = torch.stack([logs.argmax(-1) for logs in said])
        self._add_choices(batch, likeliest, voted(likeliest, said))
        for place, (one_place, other) in enumerate(self.pairs):
            distance = jensen_shannon(said[one_place], said[other])
            self.of_pairs["distance"][:, place] += self._per_row(batch, distance)

    def _add_choices(self, batch: Batch, likeliest: Tensor, vote: Tensor) -> None:
        right = likeliest == batch.targets
        for place, ours in enumerate(right):
            self.of_models["correct"][:, place] += self._per_row(batch, ours)
        for place, (one, other) in enumerate(self.pairs):
            self.of_pairs["disagree"][:, place] += self._per_row(batch, likeliest[one] != likeliest[other])
            self.of_pairs["both_wrong"][:, place] += self._per_row(batch, ~right[one] & ~right[other])
        self.vote += self._per_row(batch, vote == batch.targets)
        self.oracle += self._per_row(batch, right.any(0))

    def _per_row(self, batch: Batch, values: Tensor) -> Array:
        return np.bincount(batch.places, values.double().cpu().numpy(), self.rows).astype(np.float64)

    def finished(self) -> SetSums:
        """Return the sums."""
        return SetSums(
            tokens=self.tokens,
            vote=self.vote,
            oracle=self.oracle,
            quantities=self.quantities,
            **self.of_models,
            **self.of_pairs,
        )


def voted(likeliest: Tensor, logs: Sequence[Tensor]) -> Tensor:
    """Return the token `(N,)` that most of M models choose; among equals the one that is likeliest on average.

    Args:
        likeliest: (M, N) each model's token.
        logs: M log-probabilities (N, V).
    """
    votes = (likeliest[:, None] == likeliest[None]).sum(0)
    # The average probability is at most 1, and 1 only where all agree: added to a count, it can only break a tie.
    average = torch.stack([one.gather(1, likeliest.T).exp() for one in logs]).mean(0).T
    best = (votes + average).argmax(0)
    return likeliest.gather(0, best[None])[0]


def jensen_shannon(one: Tensor, other: Tensor) -> Tensor:
    """Return the Jensen-Shannon distance `(N,)` of two distributions, 0 for equal ones and 1 for disjoint ones.

    It is the square root of the divergence in bits, and a metric (Endres and Schindelin, IEEE Transactions on
    Information Theory 49(7), 2003).

    Args:
        one: log-probabilities (N, V).
        other: those of the other.
    """
    size = max(1, CHUNK // one.shape[-1])
    found = [_distance(p, q) for p, q in zip(one.split(size), other.split(size), strict=True)]
    return torch.cat(found)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    # In float64: of two nearly equal distributions the divergence is a small difference of large sums, and the root
    # would turn float32's rounding of 1e-7 into a distance of 3e-4.
    p, q = one.double().exp(), other.double().exp()
    middle = (p + q) / 2
    divergence = (torch.special.entr(middle) - (torch.special.entr(p) + torch.special.entr(q)) / 2).sum(-1)
    return (divergence.clamp_min(0) / np.log(2)).sqrt()
