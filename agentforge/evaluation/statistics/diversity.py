"""How much the models of a set differ, from sums over rows; and whether they differ more than seeds alone do.

Two models that differ only by the seed of their training already disagree on many tokens. So a distance between models
says nothing by itself: it is held against the same distance between models of a control that differ by seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from agentforge.evaluation.statistics.bootstrap import percentile_interval
from agentforge.evaluation.statistics.intervals import Array

Verdict = Literal["differ more than seeds do", "differ less than seeds do", "no difference"]

DIRECTION = {"error_correlation": -1, "double_fault": -1}
"""Measures of which less means more diverse; of all others it is more."""


@dataclass(frozen=True)
class SetSums:
    """What a set of M models said of the counted tokens of each row, with P = M (M - 1) / 2 pairs in order.

    Attributes:
        tokens: (rows,) how many were counted.
        correct: (rows, M) tokens whose likeliest next token is the true one.
        disagree: (rows, P) tokens on which the likeliest tokens of a pair differ.
        distance: (rows, P) sums of the Jensen-Shannon distances of the next-token distributions.
        both_wrong: (rows, P) tokens on which neither is right.
        vote: (rows,) tokens that the vote of all models gets right.
        oracle: (rows,) tokens that any of them gets right.
        quantities: by name (rows, M): sums of what each model says of how it read a token (steps of thinking, say).
    """

    tokens: Array
    correct: Array
    disagree: Array
    distance: Array
    both_wrong: Array
    vote: Array
    oracle: Array
    quantities: Mapping[str, Array]


def pairs(models: int) -> list[tuple[int, int]]:
    """Return all pairs of models by number, in the order of the columns of `SetSums`."""
    return list(combinations(range(models), 2))


def accuracies(sums: SetSums, weights: Array) -> Array:
    """Return (samples, M): each model's share of right tokens."""
    return (weights @ sums.correct) / (weights @ sums.tokens)[:, None]


def means(sums: SetSums, weights: Array) -> dict[str, Array]:
    """Return (samples, M) for each quantity: its mean over tokens."""
    tokens = (weights @ sums.tokens)[:, None]
    return {name: (weights @ values) / tokens for name, values in sums.quantities.items()}


def pair_measures(sums: SetSums, weights: Array) -> dict[str, Array]:
    """Return (samples, P) for each measure of a pair.

    Args:
        sums: of the set.
        weights: (samples, rows) of `bootstrap.row_weights`.

    Returns:
        `js`: mean Jensen-Shannon distance, in [0, 1]; `disagreement`: share of tokens; `double_fault`: share on which
        both are wrong; `error_correlation`: the phi coefficient of the two being wrong, absent where a model is always
        or never wrong (Kuncheva and Whitaker, Machine Learning 51, 2003, section 2).
    """
    tokens = (weights @ sums.tokens)[:, None]
    found = {
        "js": (weights @ sums.distance) / tokens,
        "disagreement": (weights @ sums.disagree) / tokens,
        "double_fault": (weights @ sums.both_wrong) / tokens,
    }
    wrong = 1 - accuracies(sums, weights)
    one, other = np.array(pairs(wrong.shape[1])).T
    spread = wrong * (1 - wrong)
    variance = spread[:, one] * spread[:, other]
    if (variance > 0).all():
        covariance = found["double_fault"] - wrong[:, one] * wrong[:, other]
        found["error_correlation"] = covariance / np.sqrt(variance)
    return found


def set_measures(sums: SetSums, weights: Array) -> dict[str, Array]:
    """Return (samples,) for each measure of the whole set: means over pairs, gains over the best model, spreads.

    `vote_gain` and `oracle_gain` are shares of tokens above the best single model of each sample. `NAME_spread` is the
    largest less the smallest of the models' means of a quantity.
    """
    found = {name: values.mean(axis=1) for name, values in pair_measures(sums, weights).items()}
    tokens = weights @ sums.tokens
    best = accuracies(sums, weights).max(axis=1)
    found["vote_gain"] = (weights @ sums.vote) / tokens - best
    found["oracle_gain"] = (weights @ sums.oracle) / tokens - best
    for name, values in means(sums, weights).items():
        found[f"{name}_spread"] = values.max(axis=1) - values.min(axis=1)
    return found


def latency_ratio(seconds: Array, weights: Array) -> Array:
    """Return (samples,): how many times as long the slowest model takes as the fastest.

    Args:
        seconds: (prompts, M) of each prompt.
        weights: (samples, prompts).
    """
    totals = weights @ seconds
    return np.asarray(totals.max(axis=1) / totals.min(axis=1))


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Finding:
    """One measure of a set, beside the same measure of its control.

    Attributes:
        models: of the set.
        control: of the models that differ by seed alone; None: there are none.
        difference: the set's less the control's, on the same resamples.
        verdict: None without a control.
    """

    models: Estimate
    control: Estimate | None = None
    difference: Estimate | None = None
    verdict: Verdict | None = None


def estimate(values: Array, rows: int, confidence: float) -> Estimate:
    """Return the value and interval of a bootstrapped measure `(samples,)`."""
    return Estimate(*percentile_interval(values, rows, confidence))


def findings(
    models: Mapping[str, Array], control: Mapping[str, Array] | None, rows: int, confidence: float
) -> dict[str, Finding]:
    """Return what was found of each measure that both sets have.

    Args:
        models: measures `(samples,)` of the set by name.
        control: those of the control under the very same weights, so that the difference is paired.
        rows: that were resampled.
        confidence: of all intervals.
    """
    if control is None:
        return {name: Finding(estimate(values, rows, confidence)) for name, values in models.items()}
    found = {}
    for name, values in models.items():
        if name in control:
            apart = estimate(values - control[name], rows, confidence)
            of_set, of_control = (estimate(one, rows, confidence) for one in (values, control[name]))
            found[name] = Finding(of_set, of_control, apart, verdict(apart, DIRECTION.get(name, 1)))
    return found


def verdict(difference: Estimate, direction: int = 1) -> Verdict:
    """Return what a difference to the control says: only an interval without 0 says anything.

    Args:
        difference: the set's measure less the control's.
        direction: -1 where less means more diverse.
    """
    if difference.low <= 0 <= difference.high:
        return "no difference"
    return "differ more than seeds do" if (difference.low > 0) == (direction > 0) else "differ less than seeds do"
