"""Intervals of proportions."""

from __future__ import annotations


def beta_jeffreys(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the equal-tailed Beta-Jeffreys interval of a proportion.

    The posterior under Jeffreys' prior is Beta(successes + 1/2, n - successes + 1/2). With no success the lower limit
    is 0 and with n successes the upper one is 1 (Brown, Cai and DasGupta, Interval Estimation for a Binomial
    Proportion, Statistical Science 16(2), 2001): else the interval could not cover 0 and 1 at all.

    Args:
        successes: of ``n`` independent trials.
        n: 0 gives (0, 1): nothing was measured.
        confidence: mass of the interval, in (0, 1).

    Raises:
        ValueError: the counts or the mass are impossible.
    """
    from scipy.stats import beta

    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials are impossible")
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, it is {confidence}")
    tail = (1 - confidence) / 2
    posterior = beta(successes + 0.5, n - successes + 0.5)
    low = 0.0 if successes == 0 else float(posterior.ppf(tail))
    high = 1.0 if successes == n else float(posterior.ppf(1 - tail))
    return low, high
