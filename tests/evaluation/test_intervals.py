"""The interval against Simpson's rule over the posterior's density, and against published limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentforge.proportions import beta_jeffreys


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
