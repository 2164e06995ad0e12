"""Intervals against Simpson's rule, slow sums, scipy, published limits, and against how often they hold the truth."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm, t, ttest_1samp

from agentforge.evaluation.statistics.intervals import (
    beta_jeffreys,
    bootstrap_abc,
    effective_trials,
    jeffreys_coverage,
    share_over_rows,
)


def posterior_mass(successes: int, n: int, low: float, high: float, steps: int = 4000) -> float:
    """Integrate the Beta density; x = sin(t)^2 takes its singularities at 0 and 1 away (Simpson's rule)."""
    a, b = successes + 0.5, n - successes + 0.5
    log_constant = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)

    def density(t: float) -> float:
        sine, cosine = math.sin(t), math.cos(t)
        # x^(a-1) (1-x)^(b-1) dx = 2 sin^(2a-1) cos^(2b-1) dt, whose exponents are the integers 2k and 2(n-k)
        return 2 * math.exp(log_constant) * sine ** (2 * successes) * cosine ** (2 * (n - successes))

    start, end = math.asin(math.sqrt(low)), math.asin(math.sqrt(high))
    width = (end - start) / steps
    inner = sum((4 if i % 2 else 2) * density(start + i * width) for i in range(1, steps))
    return (density(start) + inner + density(end)) * width / 3


counts = st.integers(1, 80).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, st.sampled_from([0.5, 0.8, 0.95]))
@settings(max_examples=60, deadline=None)
def test_each_tail_holds_half_of_what_is_left_out(count: tuple[int, int], confidence: float) -> None:
    successes, n = count
    low, high = beta_jeffreys(successes, n, confidence)
    tail = (1 - confidence) / 2
    assert posterior_mass(successes, n, 0, low) == pytest.approx(0 if successes == 0 else tail, abs=1e-6)
    assert posterior_mass(successes, n, high, 1) == pytest.approx(0 if successes == n else tail, abs=1e-6)


@given(counts, st.floats(0.05, 0.99))
@settings(max_examples=100, deadline=None)
def test_contains_the_proportion_and_mirrors(count: tuple[int, int], confidence: float) -> None:
    successes, n = count
    low, high = beta_jeffreys(successes, n, confidence)
    mirrored = beta_jeffreys(n - successes, n, confidence)
    assert 0 <= low < high <= 1
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)
    if confidence >= 0.5:
        assert low <= successes / n <= high


@given(counts)
@settings(max_examples=60, deadline=None)
def test_more_confidence_is_wider_and_more_data_narrower(count: tuple[int, int]) -> None:
    successes, n = count
    narrow, wide = beta_jeffreys(successes, n, 0.5), beta_jeffreys(successes, n, 0.9)
    assert wide[0] <= narrow[0] and narrow[1] <= wide[1]
    more = beta_jeffreys(10 * successes, 10 * n, 0.9)
    assert more[1] - more[0] < wide[1] - wide[0]


def test_ends_are_closed_where_the_data_are_extreme() -> None:
    assert beta_jeffreys(0, 0, 0.8) == (0.0, 1.0)
    assert beta_jeffreys(0, 10, 0.8)[0] == 0.0
    assert beta_jeffreys(10, 10, 0.8)[1] == 1.0


def test_published_limits() -> None:
    """Brown, Cai and DasGupta (2001), table 5: 95 % limits for n = 7 and n = 30."""
    assert beta_jeffreys(1, 7, 0.95) == pytest.approx((0.016, 0.501), abs=6e-4)
    assert beta_jeffreys(0, 7, 0.95) == pytest.approx((0, 0.292), abs=6e-4)
    assert beta_jeffreys(5, 30, 0.95) == pytest.approx((0.066, 0.328), abs=6e-4)


@pytest.mark.parametrize(("successes", "n", "confidence"), [(3, 2, 0.8), (-1, 2, 0.8), (1, 2, 0), (1, 2, 1)])
def test_impossible_counts_are_refused(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"impossible|between 0 and 1"):
        beta_jeffreys(successes, n, confidence)


def slow_coverage(n: int, rate: float, confidence: float) -> float:
    covered = 0.0
    for successes in range(n + 1):
        low, high = beta_jeffreys(successes, n, confidence)
        if low <= rate <= high:
            covered += math.comb(n, successes) * rate**successes * (1 - rate) ** (n - successes)
    return covered


@pytest.mark.parametrize(("n", "confidence"), [(1, 0.8), (3, 0.8), (10, 0.95), (27, 0.8)])
def test_the_coverage_is_that_of_a_slow_sum(n: int, confidence: float) -> None:
    coverage = jeffreys_coverage(n, confidence)
    rates = np.linspace(0, 1, 1001)
    on_a_grid = [slow_coverage(n, float(rate), confidence) for rate in rates]
    limits = [limit for successes in range(n + 1) for limit in beta_jeffreys(successes, n, confidence)]
    near = [min(1.0, max(0.0, limit + side)) for limit in limits for side in (-1e-9, 1e-9)]
    assert coverage.minimum <= min(on_a_grid)
    assert coverage.minimum == pytest.approx(min(slow_coverage(n, rate, confidence) for rate in near), abs=1e-6)
    assert coverage.mean == pytest.approx(np.mean(on_a_grid), abs=2e-3)


def test_eighty_percent_is_a_mean_and_no_floor() -> None:
    """Near 1 / n from either end the interval misses in four of ten cases, whatever n is."""
    for n in (27, 100, 400):
        coverage = jeffreys_coverage(n, 0.8)
        assert coverage.mean == pytest.approx(0.8, abs=0.002)
        assert 0.58 < coverage.minimum < 0.6


def slow_trials(clusters: list[list[int]]) -> float:
    """Delta method by hand, without Student's correction: trials that vary as much as the share over clusters does."""
    n, trials = len(clusters), sum(map(len, clusters))
    share = sum(map(sum, clusters)) / trials
    spread = sum((sum(own) - share * len(own)) ** 2 for own in clusters)
    return share * (1 - share) / (n / (n - 1) * spread / trials**2)


def test_effective_trials_are_those_of_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    clusters = [[int(rng.random() < rate) for _ in range(rng.integers(5, 30))] for rate in rng.beta(4, 4, 500)]
    sums, counts = (np.array([function(own) for own in clusters], dtype=float) for function in (sum, len))
    found = effective_trials(sums, counts, counts.sum(), 0.8)
    assert len(clusters) < found < counts.sum()
    assert found == pytest.approx(slow_trials(clusters), rel=0.005), "500 clusters need next to no correction"
    few = slice(0, 12)
    assert effective_trials(sums[few], counts[few], counts[few].sum(), 0.8) < slow_trials(clusters[few])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_clusters_that_agree_throughout_count_once_each(share: float) -> None:
    """They cannot show that their trials are independent; a hundred tokens of one row may all be of one kind."""
    counts = np.array([100.0, 60.0, 40.0])
    assert effective_trials(share * counts, counts, 200.0, 0.8) == 3
    assert share_over_rows(share * counts, counts, 0.8)[1:] == beta_jeffreys(3 * share, 3, 0.8)
    assert effective_trials(np.array([7.0]), np.array([10.0]), 10.0, 0.8) == 1, "one cluster has no spread"


@pytest.mark.parametrize("clusters", [5, 40])
def test_the_clustered_interval_holds_with_few_clusters_too(clusters: int) -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(1500):
        rates = rng.beta(1.8, 1.2, clusters)
        sums = rng.binomial(8, rates).astype(float)
        _, low, high = share_over_rows(sums, np.full(clusters, 8.0), 0.8)
        held += low <= 0.6 <= high
    assert 0.76 < held / 1500 < 0.85


# -- graded scores --------------------------------------------------------------------------------------------------


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
