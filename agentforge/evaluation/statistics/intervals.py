"""Intervals of proportions, of means of graded scores and of losses, in closed form: no resampling, so no seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def beta_jeffreys(successes: float, n: float, confidence: float) -> tuple[float, float]:
    """Return the equal-tailed Beta-Jeffreys interval of a proportion.

    The posterior under Jeffreys' prior is Beta(successes + 1/2, n - successes + 1/2). With no success the lower limit
    is 0 and with n successes the upper one is 1 (Brown, Cai and DasGupta, Interval Estimation for a Binomial
    Proportion, Statistical Science 16(2), 2001, section 4.1.2): else the interval could not cover 0 and 1 at all.

    It covers the true rate with the stated probability on average over rates, and with less at some of them:
    `jeffreys_coverage` says how much less.

    Args:
        successes: of ``n`` independent trials; no whole numbers where `effective_trials` made them.
        n: 0 gives (0, 1): nothing was measured.
        confidence: mass of the interval, in (0, 1).

    Raises:
        ValueError: the counts or the mass are impossible.
    """
    from scipy.special import betaincinv

    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials are impossible")
    _check(confidence)
    tail = (1 - confidence) / 2
    a, b = successes + 0.5, n - successes + 0.5
    low = 0.0 if successes == 0 else float(betaincinv(a, b, tail))
    high = 1.0 if successes == n else float(betaincinv(a, b, 1 - tail))
    return low, high


@dataclass(frozen=True)
class Coverage:
    """How often an interval contains the true rate.

    Attributes:
        minimum: at the rate where it does so least often.
        mean: over all rates from 0 to 1 alike.
    """

    minimum: float
    mean: float


def jeffreys_coverage(n: int, confidence: float) -> Coverage:
    """Return the exact coverage of `beta_jeffreys` after ``n`` trials, by summing the binomial distribution.

    Between two neighbouring limits the interval of a fixed run of counts, a to b, contains the rate, so the coverage is
    P(a <= X <= b): as a function of the rate it rises and then falls, and its least value lies at one of the two ends.
    The minimum over all rates is therefore found among the limits; no grid is needed. The mean is an integral of the
    binomial over each count's interval, which is a difference of Beta distribution functions.
    """
    from scipy.special import betainc
    from scipy.stats import binom

    counts = np.arange(n + 1)
    low, high = np.array([beta_jeffreys(int(count), n, confidence) for count in counts]).T
    ends = np.unique([*low, *high])
    middle = (ends[:-1] + ends[1:]) / 2
    # Both limits rise with the count: the counts whose intervals contain the middle are those from `first` to `last`.
    first, last = np.searchsorted(high, middle), np.searchsorted(low, middle) - 1
    covered = [binom.cdf(last, n, rate) - binom.cdf(first - 1, n, rate) for rate in (ends[:-1], ends[1:])]
    mean = (betainc(counts + 1, n - counts + 1, high) - betainc(counts + 1, n - counts + 1, low)).sum() / (n + 1)
    return Coverage(float(np.min(covered)), float(mean))


def effective_trials(sums: Array, weights: Array, trials: float, confidence: float) -> float:
    """Return how many independent trials clustered ones are worth.

    Samples of one task resemble each other, and so do tokens of one row. The share p = sum(sums) / sum(weights) then
    varies more than p (1 - p) / trials says. Its true variance is taken from the spread between clusters, linearised as
    that of a ratio of sums (Cochran, Sampling Techniques, 3rd ed. 1977, section 6.4), and p (1 - p) over it is the
    number of independent trials that would vary as much. Few clusters tell their own spread badly: the squared ratio of
    Student's t quantiles makes up for it (both from Korn and Graubard, Survey Methodology 24(2), 1998, section 3).

    Where all trials agree there is no spread to estimate, and nothing says that a cluster could have disagreed with
    itself: each counts once.

    Args:
        sums: (clusters,) successes of each, or their share where clusters count alike.
        weights: (clusters,) trials of each, or 1 where clusters count alike.
        trials: all of them; the result is at most that, and at least the number of clusters.
        confidence: of the interval that is made from them.
    """
    from scipy.special import stdtrit

    clusters = len(sums)
    share = float(sums.sum() / weights.sum()) if clusters else 0.0
    if clusters < 2 or not 0 < share < 1:
        return float(clusters)
    residuals = sums - share * weights
    variance = clusters / (clusters - 1) * float(residuals @ residuals) / float(weights.sum()) ** 2
    if variance == 0:
        return float(trials)
    tail = (1 + confidence) / 2
    few = float(stdtrit(trials - 1, tail) / stdtrit(clusters - 1, tail)) ** 2
    return float(min(max(few * share * (1 - share) / variance, clusters), trials))


def share_over_rows(successes: Array, counts: Array, confidence: float) -> tuple[float, float, float]:
    """Return the share of successes among all trials of several rows, and its Beta-Jeffreys interval.

    Args:
        successes: (rows,) of each row.
        counts: (rows,) trials of each row.
        confidence: mass of the interval, over `effective_trials`.
    """
    share = float(successes.sum() / counts.sum())
    trials = effective_trials(successes, counts, float(counts.sum()), confidence)
    return share, *beta_jeffreys(share * trials, trials, confidence)


def bootstrap_abc(values: Array, confidence: float) -> tuple[float, float]:
    """Return the expanded ABC interval of the mean of scores in [0, 1].

    ABC is what the BCa bootstrap tends to with many resamples. For a mean the bias correction equals the acceleration
    a = sum(d^3) / (6 sum(d^2)^1.5), d = values - mean, and the limit at the normal quantile z is
    mean + s w / (1 - a w)^2, w = a + z, s = sqrt(sum(d^2)) / n (DiCiccio and Efron, Bootstrap Confidence Intervals,
    Statistical Science 11(3), 1996, section 4).

    Every bootstrap of few values is too narrow: it divides by n, not by n - 1, and takes the spread that it sees for
    the true one. Of three graded scores the plain 80% interval contains the true mean in 60% of cases. Expanded, z is
    Student's t quantile times sqrt(n / (n - 1)) (Hesterberg, What Teachers Should Know About the Bootstrap, American
    Statistician 69(4), 2015); for symmetric scores that is Student's t interval.

    Where all values are equal there is nothing to resample: then a share of unseen values, at most the upper Jeffreys
    limit for 0 of n, may lie anywhere in [0, 1].

    Args:
        values: (n,) one for each independent task, in [0, 1].

    Raises:
        ValueError: the mass is impossible.
    """
    from scipy.special import stdtrit

    _check(confidence)
    n = len(values)
    if n == 0:
        return 0.0, 1.0
    mean = float(values.mean())
    deviations = values - mean
    squares = float(deviations @ deviations)
    if n < 2 or squares < 1e-12 * n:
        unseen = beta_jeffreys(0, n, confidence)[1]
        return mean * (1 - unseen), mean * (1 - unseen) + unseen
    acceleration = float((deviations**3).sum()) / (6 * squares**1.5)
    z = float(stdtrit(n - 1, (1 + confidence) / 2)) * (n / (n - 1)) ** 0.5
    w = acceleration + np.array([-z, z])
    low, high = mean + np.sqrt(squares) / n * w / (1 - acceleration * w) ** 2
    return max(0.0, min(mean, float(low))), min(1.0, max(mean, float(high)))


def ratio_t(sums: Array, counts: Array, confidence: float) -> tuple[float, float, float]:
    """Return the mean of all values of several rows, sum(sums) / sum(counts), and its Student-t interval over rows.

    Values of one row depend on each other, rows do not: the variance is the linearised one of a ratio of sums,
    n / (n - 1) * sum((sums - mean * counts)^2) / sum(counts)^2 (Cochran, Sampling Techniques, 3rd ed. 1977, 6.4), with
    n - 1 degrees of freedom.

    Args:
        sums: (rows,) of the values of each row; of two ways to read the rows their differences.
        counts: (rows,) values of each row.

    Raises:
        ValueError: there are fewer than two rows, or the mass is impossible.
    """
    from scipy.special import stdtrit

    _check(confidence)
    n = len(sums)
    if n < 2:
        raise ValueError("an interval over rows needs at least two")
    mean = float(sums.sum() / counts.sum())
    residuals = sums - mean * counts
    error = float(np.sqrt(n / (n - 1) * (residuals @ residuals))) / float(counts.sum())
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return mean, mean - half, mean + half


def _check(confidence: float) -> None:
    """Raise ValueError unless ``confidence`` can be the mass of an interval."""
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1; it is {confidence}")
