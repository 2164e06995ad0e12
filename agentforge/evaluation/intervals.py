"""Intervals of means of graded scores and of losses, in closed form: no resampling, so no seed.

Those of proportions are in `agentforge.proportions`.
"""

from __future__ import annotations

import numpy as np

from agentforge.proportions import Array, beta_jeffreys, check_confidence


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

    check_confidence(confidence)
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

    check_confidence(confidence)
    n = len(sums)
    if n < 2:
        raise ValueError("an interval over rows needs at least two")
    mean = float(sums.sum() / counts.sum())
    residuals = sums - mean * counts
    error = float(np.sqrt(n / (n - 1) * (residuals @ residuals))) / float(counts.sum())
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return mean, mean - half, mean + half
