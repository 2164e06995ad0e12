"""When one model is said to dominate another: named rules on mean scores, vectorised over pairs and simulations.

Every rule is a function of two sides and returns whether A dominates B. Rules with ``affine`` and ``champion`` in their
name are those of the Affine subnet's validator at a date (docs/evaluation.md gives the source of each); they are
kept as they were, weaknesses too, so that a result can be compared with theirs.

They all read mean scores and know nothing of tasks. The default rule, `posterior`, reads the tasks one by one and is in
`agentforge.evaluation.statistics.posterior`; docs/evaluation.md says how often each is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from agentforge.evaluation.statistics.intervals import Array

Bools = np.ndarray[Any, np.dtype[np.bool_]]

MIN_SAMPLES = 200
"""Results in an environment below which `affine_ci` lets a model lose there."""
COUNT_CAP = 1000
"""Results above which `affine_eps` counts no further."""
COMPLETE = 0.9
"""Share of an environment's tasks that `affine_margin` wants played."""
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Side:
    """The scores of one model, or of many.

    Attributes:
        mean: (..., environments) in [0, 1].
        n: (..., environments) results.
        low, high: (..., environments) the interval of the mean.
        order: (...) when the model was handed in; the smaller is the earlier, the incumbent.
        complete: (..., environments) share of the tasks that were played.
    """

    mean: Array
    n: Array
    low: Array
    high: Array
    order: np.ndarray[Any, Any]
    complete: Array

    def __getitem__(self, index: Any) -> Side:
        return Side(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def every(found: Bools) -> Bools:
    """Return whether it is so in every environment."""
    return np.asarray(found.all(axis=-1))


def some(found: Bools) -> Bools:
    """Return whether it is so in some environment."""
    return np.asarray(found.any(axis=-1))


Rule = Callable[[Side, Side], Bools]


def point(a: Side, b: Side) -> Bools:
    """The spec's plain rule: at least as good everywhere, better somewhere."""
    return every(a.mean >= b.mean) & some(a.mean > b.mean)


def interval(a: Side, b: Side) -> Bools:
    """The interval lies nowhere below the other's, and somewhere above it.

    "Somewhere" is a maximum over environments, so luck finds one the sooner the more there are.
    """
    return ~some(a.high < b.low) & some(a.low > b.high)


def affine_eps(a: Side, b: Side) -> Bools:
    """Until 15 October 2025: not worse by more than 1.28 standard errors anywhere and better by a little somewhere.

    If all differences are within the first margin, the earlier one dominates.
    """
    rate_a, rate_b = np.clip(a.mean, 0, 1), np.clip(b.mean, 0, 1)
    variance = rate_a * (1 - rate_a) / np.clip(a.n, 1, COUNT_CAP) + rate_b * (1 - rate_b) / np.clip(b.n, 1, COUNT_CAP)
    not_worse = np.maximum(0.005, 1.28 * np.sqrt(variance))
    # Half a standard error is better by luck alone in a third of all comparisons: this rule errs most of all.
    better = np.minimum(np.maximum(0.015, 0.5 * np.sqrt(variance)), not_worse)
    won = every(a.mean >= b.mean - not_worse) & some(a.mean >= b.mean + better)
    alike = every(np.abs(a.mean - b.mean) <= not_worse)
    return won | (alike & (a.order < b.order))


def affine_ci(a: Side, b: Side) -> Bools:
    """From 20 October 2025: in each environment the later one must clear the earlier one's 80 % Beta interval.

    The winner of an environment is the later one if its lower limit lies above the earlier one's upper limit, else the
    earlier one; of two handed in together nobody wins unless the intervals are apart. Whoever has fewer than 200
    results loses; if both have, nobody wins. A dominates if B wins nowhere and A somewhere.
    """
    low_a, high_a = _pseudo_successes(a)
    low_b, high_b = _pseudo_successes(b)
    later, earlier = (a.order > b.order)[..., None], (a.order < b.order)[..., None]
    # A tie goes to the earlier one: a copy of the best model, handed in again, is to gain nothing.
    above, below = low_a > high_b, low_b > high_a
    wins = above | (earlier & ~below)
    loses = below | (later & ~above)
    few_a, few_b = a.n < MIN_SAMPLES, b.n < MIN_SAMPLES
    wins, loses = (wins & ~few_a) | (few_b & ~few_a), (loses & ~few_b) | (few_a & ~few_b)
    return ~some(loses) & some(wins)


def affine_margin(a: Side, b: Side) -> Bools:
    """December 2025: the later one must beat the earlier one's score by a margin, in all environments; no interval.

    The margin is a fifth of what is missing to 1, at least 0.02 and at most 0.1. Where the later one does not, the
    earlier one has won; it too dominates only if it wins all.
    """
    later = (a.order > b.order)[..., None]
    first, second = np.where(later, b.mean, a.mean), np.where(later, a.mean, b.mean)
    margin = np.clip(0.2 * (1 - first), 0.02, 0.1)
    second_wins = second > np.minimum(first + margin, 1) + TOLERANCE
    complete = every(np.minimum(a.complete, b.complete) >= COMPLETE)
    return every(np.where(later, second_wins, ~second_wins)) & complete & (a.order != b.order)


def champion_margin(a: Side, b: Side) -> Bools:
    """July 2026: the challenger is better by more than 0.03 somewhere and nowhere below 98 % of the champion.

    The earlier one is the champion: it never has to show anything, so only a later one can dominate.
    """
    dominant = a.mean > b.mean + 0.03 + TOLERANCE
    not_worse = dominant | (a.mean >= b.mean * 0.98 - TOLERANCE)
    return some(dominant) & every(not_worse) & (a.order > b.order)


RULES: dict[str, Rule] = {
    "point": point,
    "interval": interval,
    "affine_eps": affine_eps,
    "affine_ci": affine_ci,
    "affine_margin": affine_margin,
    "champion_margin": champion_margin,
}


def dominates(rule: Rule, models: Side) -> Bools:
    """Return (models, models): whether the row's model dominates the column's."""
    found = rule(models[:, None], models[None, :])
    return found & ~np.eye(len(found), dtype=bool)


def _pseudo_successes(side: Side) -> tuple[Array, Array]:
    """Return the 10 % and 90 % quantiles of Beta(1/2 + sum of scores, 1/2 + n - sum): graded scores counted too.

    So the validator made them: not closed at 0 and 1, as `beta_jeffreys` is, and far too wide for graded scores.
    """
    from scipy.special import betaincinv

    total = np.clip(side.mean * side.n, 0, side.n)
    a, b = 0.5 + total, 0.5 + side.n - total
    return betaincinv(a, b, 0.1), betaincinv(a, b, 0.9)
