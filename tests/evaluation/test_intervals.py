"""Intervals of graded means against scipy's bootstrap and Student's t, and against how often they hold the truth."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, t, ttest_1samp

from agentforge.evaluation.intervals import bootstrap_abc


@pytest.mark.parametrize("n", [25, 100])
def test_abc_is_the_limit_of_the_bca_bootstrap(n: int) -> None:
    values = np.random.default_rng(n).beta(0.5, 2, n)
    expanded = t(n - 1).ppf(0.9) * (n / (n - 1)) ** 0.5
    resampled = bootstrap(
        (values,),
        np.mean,
        confidence_level=2 * norm.cdf(expanded) - 1,
        n_resamples=9999,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    low, high = bootstrap_abc(values, 0.8)
    assert (low, high) == pytest.approx((resampled.low, resampled.high), abs=0.04 * (high - low))


def test_of_symmetric_scores_it_is_students() -> None:
    values = np.array([0.3, 0.45, 0.5, 0.55, 0.7])
    expected = ttest_1samp(values, 0).confidence_interval(0.8)
    assert bootstrap_abc(values, 0.8) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [3, 5, 10, 60])
@pytest.mark.parametrize(("a", "b"), [(8, 2), (2, 2)])
def test_it_holds_the_mean_of_few_graded_scores(a: float, b: float, n: int) -> None:
    """Without Student's quantile 62, 68 and 75 % of cases with 3, 5 and 10 tasks."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        low, high = bootstrap_abc(rng.beta(a, b, n), 0.8)
        held += low <= a / (a + b) <= high
    assert 0.77 < held / 2000 < 0.85


def test_the_coverage_of_three_thirds_exactly() -> None:
    """All 64 outcomes of three tasks whose scores are 0, 1/3, 2/3 and 1 alike: the mean is inside in 50 of them."""
    outcomes = [np.array(values) for values in product((0, 1 / 3, 2 / 3, 1), repeat=3)]
    held = sum(low <= 0.5 <= high for low, high in (bootstrap_abc(values, 0.8) for values in outcomes))
    assert held == 50


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_scores_do_not_make_certainty(value: float) -> None:
    low, high = bootstrap_abc(np.full(20, value), 0.8)
    assert low <= value <= high and 0.03 < high - low < 0.1
    assert bootstrap_abc(np.array([]), 0.8) == (0.0, 1.0)
