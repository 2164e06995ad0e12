"""The joint posterior of several models' true scores, given that they played the same tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agentforge.evaluation.statistics.intervals import Array

DRAWS = 4000
ROPE = 0.02
"""Differences up to this size mean nothing in practice."""
MANY = 2000
"""Different rows of scores from which on the normal limit is as good as drawing weights."""


def draw_scores(scores: Array, rng: np.random.Generator, draws: int = DRAWS) -> Array:
    """Draw true mean scores of models from their posterior after the same tasks, (draws, models).

    A Bayesian bootstrap (Rubin, Annals of Statistics 9(1), 1981): weights of tasks are Dirichlet, and all models get
    the same weights, which pairs them. One imagined task is added, at which a coin decides for each model between 0
    and 1: without it models that always agree would be equal for certain. For right and wrong answers of one model
    that is close to Jeffreys' prior.

    Args:
        scores: (tasks, models) in [0, 1].
    """
    models = scores.shape[1]
    rows, counts = np.unique(scores, axis=0, return_counts=True)
    if len(rows) > MANY:
        spread = np.cov(scores, rowvar=False).reshape(models, models) / len(scores)
        drawn: Array = rng.multivariate_normal(scores.mean(axis=0), spread, draws, method="eigh")
        return np.clip(drawn, 0, 1)
    weights = rng.standard_gamma(counts, (draws, len(rows)))
    imagined = rng.standard_exponential((draws, 1))
    total = weights.sum(axis=1, keepdims=True) + imagined
    summed: Array = weights @ rows + imagined * rng.integers(0, 2, (draws, models))
    return summed / total


def draw_all(scores: Sequence[Array], seed: int = 0, draws: int = DRAWS) -> Array:
    """Draw from the posterior in every environment, (draws, environments, models).

    Args:
        scores: (tasks, models) of each environment.
    """
    rng = np.random.default_rng(seed)
    return np.stack([draw_scores(one, rng, draws) for one in scores], axis=1)


def dominance_draws(drawn: Array, rope: float = ROPE) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return for each draw whether the row's model dominates the column's, (draws, models, models).

    It does where it is nowhere worse by more than ``rope``, and somewhere better by more than it. Both are asked of
    the same draw, so the more environments there are, the more has to be true at once: that is the correction
    for their number.
    """
    difference = drawn[..., :, None] - drawn[..., None, :]
    return np.asarray((difference > -rope).all(axis=1) & (difference > rope).any(axis=1))


def dominance_probability(drawn: Array, rope: float = ROPE) -> Array:
    """Return (models, models): the posterior probability that the row's model dominates the column's."""
    return dominance_draws(drawn, rope).mean(axis=0)


def frontier_probability(drawn: Array, rope: float = ROPE) -> Array:
    """Return (models,): the posterior probability that no other model dominates it."""
    return 1 - dominance_draws(drawn, rope).any(axis=1).mean(axis=0)
