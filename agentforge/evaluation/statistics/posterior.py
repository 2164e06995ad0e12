"""The joint posterior of several models' true scores after the same tasks, and what may be said of all of them at once.

A model is compared with every other one, in every environment, and only what looks striking is reported. A probability
of 95% for one pair is no protection then: of 20 equally good models some pair reaches it in nine of ten evaluations
(`python -m benchmarks.dominance`). Asking that all reported statements hold together with 95% changes nothing, because
the single most striking pair can be reported alone. A posterior under a flat prior does not know that it was chosen for
being striking; the rule that chooses has to account for that. `declared_dominance` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agentforge.evaluation.statistics.intervals import Array

Bools = np.ndarray[Any, np.dtype[np.bool_]]

DRAWS = 4000
ROPE = 0.02
"""Differences up to this size mean nothing in practice: the region of practical equivalence."""
SURE = 0.95
"""Probability with which everything that is declared holds at once."""
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
    # Dirichlet weights are independent Gamma variables over their sum. Tasks with the same row of scores share one
    # Gamma variable, whose shape is their number: 400 right-or-wrong tasks of two models need four, not 400.
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


def dominance_draws(drawn: Array, rope: float = ROPE) -> Bools:
    """Return for each draw whether the row's model dominates the column's, (draws, models, models).

    It does where it is nowhere worse by more than ``rope``, and somewhere better by more than it. Both are asked of
    the same draw.
    """
    draws, environments, models = drawn.shape
    nowhere_worse, somewhere_better = np.ones((draws, models, models), bool), np.zeros((draws, models, models), bool)
    for environment in range(environments):  # one at a time: all differences at once would need gigabytes
        difference = drawn[:, environment, :, None] - drawn[:, environment, None, :]
        nowhere_worse &= difference > -rope
        somewhere_better |= difference > rope
    return np.asarray(nowhere_worse & somewhere_better)


def dominance_probability(drawn: Array, rope: float = ROPE) -> Array:
    """Return (models, models): the posterior probability that the row's model dominates the column's, pair by pair."""
    return dominance_draws(drawn, rope).mean(axis=0)


def frontier_probability(drawn: Array, rope: float = ROPE) -> Array:
    """Return (models,): the posterior probability that no other model dominates it."""
    return 1 - dominance_draws(drawn, rope).any(axis=1).mean(axis=0)


def difference_tail(scores: Array, threshold: float) -> Array:
    """Return (models, models): the posterior probability that row minus column is at most ``threshold``.

    From the exact mean and variance of `draw_scores`, with the tail of Student's t distribution with as many degrees of
    freedom as there are tasks. Among 20 models in eight environments tails of 1e-5 decide, which no affordable number
    of draws resolves.

    The weights are Dirichlet(1, ..., 1) over n tasks and the imagined one. Given what its coins say, c, the mean of the
    difference is m = (sum(d) + c) / (n + 1) and the variance ((sum(d^2) + c^2) / (n + 1) - m^2) / (n + 2). Over the
    coins c is 0 on average and its square 1/2.

    Args:
        scores: (tasks, models) in [0, 1].
    """
    from scipy.special import stdtr

    n = len(scores)
    total, products = scores.sum(axis=0), scores.T @ scores
    own = np.diag(products)
    mean = (total[:, None] - total[None, :]) / (n + 1)
    square = (own[:, None] + own[None, :] - 2 * products + 0.5) / (n + 1)
    of_coins = 0.5 / (n + 1) ** 2  # variance of m
    variance = (square - mean**2 - of_coins) / (n + 2) + of_coins
    tail: Array = stdtr(max(n, 1), (threshold - mean) / np.sqrt(variance))
    return tail


def dominance_tail(scores: Sequence[Array], rope: float = ROPE) -> Array:
    """Return (models, models): how surprising the data are, at most, if the row's model does not dominate the column's.

    If it does not, then it is worse somewhere by more than ``rope``, or nowhere better by more. The first has to be
    improbable in each environment by itself: whichever it were, its own tail would have shown it (an intersection-union
    test, Berger, Technometrics 24(4), 1982). Of the second, all environments have to be improbable together: the tails
    r (1 is the smallest) of E give min(E tail_r / r) (Simes, Biometrika 73(3), 1986), exact for independent
    environments. A posterior probability of "somewhere better" would not do: if there is nothing but luck, eight
    environments make it likely.

    Args:
        scores: (tasks, models) of each environment.
    """
    worse = np.max([difference_tail(one, -rope) for one in scores], axis=0)
    not_better = np.sort([difference_tail(one, rope) for one in scores], axis=0)
    ranks = np.arange(1, len(scores) + 1)[:, None, None]
    tail = np.maximum(worse, (not_better * len(scores) / ranks).min(axis=0))
    np.fill_diagonal(tail, 1.0)
    return np.asarray(tail)


def declared_dominance(scores: Sequence[Array], drawn: Array, rope: float = ROPE, sure: float = SURE) -> Bools:
    """Return (models, models): of which pairs it may be said that the row's model dominates the column's.

    Two things hold of the pairs together, however many models there are:

    * The probability that any pair is declared wrongly is at most 1 - ``sure``, whatever the truth is. Each of the
      m (m - 1) ordered pairs gets an equal share of it (Bonferroni): `dominance_tail` has to be below it.
    * The posterior probability that every declared statement is true is at least ``sure``: pairs are taken from the
      most certain one on, as long as all taken so far hold at once in so many draws.

    Args:
        scores: (tasks, models) of each environment.
        drawn: from `draw_all` of these scores.
    """
    models = drawn.shape[2]
    declared = np.zeros((models, models), bool)
    tail = dominance_tail(scores, rope)
    pairs = np.argwhere(tail <= (1 - sure) / max(1, models * (models - 1)))
    if len(pairs):
        rows, columns = pairs[np.argsort(tail[tuple(pairs.T)], kind="stable")].T
        fails = ~dominance_draws(drawn, rope)[:, rows, columns]
        together = 1 - np.logical_or.accumulate(fails, axis=1).mean(axis=0)
        declared[rows, columns] = together >= sure
    return declared


def together_probability(drawn: Array, declared: Bools, rope: float = ROPE) -> float:
    """Return the posterior probability that every declared statement is true; 1 where there is none."""
    return float((dominance_draws(drawn, rope) | ~declared).all(axis=(1, 2)).mean())
