"""Intervals of proportions and of means of graded scores, in closed form: no resampling, so no seed."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]


def beta_jeffreys(successes: float, n: float, confidence: float) -> tuple[float, float]:
    """Return the equal-tailed Beta-Jeffreys interval of a proportion.

    The posterior under Jeffreys' prior is Beta(successes + 1/2, n - successes + 1/2). With no success the lower limit
    is 0 and with n successes the upper one is 1 (Brown, Cai and DasGupta, Interval Estimation for a Binomial
    Proportion, Statistical Science 16(2), 2001): else the interval could not cover 0 and 1 at all.

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


def effective_trials(task_rates: Array, samples: int) -> float:
    """Return how many independent trials several samples of each task are worth.

    p (1 - p) over the variance of the mean of task rates (Korn and Graubard, Survey Methodology 24(2), 1998), kept
    between the number of tasks (samples of a task always agree) and the number of samples.

    Args:
        task_rates: (tasks,) share of successes of each task.
        samples: of all tasks together.
    """
    tasks, p = len(task_rates), float(task_rates.mean()) if len(task_rates) else 0.0
    if tasks < 2 or not 0 < p < 1:
        return float(tasks)
    variance = float(task_rates.var(ddof=1)) / tasks
    return float(min(max(p * (1 - p) / variance, tasks), samples)) if variance > 0 else float(samples)


def bootstrap_abc(values: Array, confidence: float) -> tuple[float, float]:
    """Return the ABC interval of the mean of scores in [0, 1]: what the BCa bootstrap tends to with many resamples.

    For a mean the bias correction equals the acceleration a = sum(d^3) / (6 sum(d^2)^1.5), d = values - mean, and the
    limit at the normal quantile z is mean + s w / (1 - a w)^2, w = a + z, s = sqrt(sum(d^2)) / n (DiCiccio and Efron,
    Bootstrap Confidence Intervals, Statistical Science 11(3), 1996, section 4).

    Where all values are equal there is nothing to resample: then a share of unseen values, at most the upper Jeffreys
    limit for 0 of n, may lie anywhere in [0, 1].

    Args:
        values: (n,) one for each independent task, in [0, 1].

    Raises:
        ValueError: the mass is impossible.
    """
    from scipy.special import ndtri

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
    w = acceleration + ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
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


def share_over_rows(successes: Array, counts: Array, confidence: float) -> tuple[float, float, float]:
    """Return the share of successes among all trials of several rows, and its Beta-Jeffreys interval.

    Trials of one row depend on each other: all together count for as many as the linearised variance between rows says,
    at least the rows and at most the trials (Korn and Graubard, as in `effective_trials`).

    Args:
        successes: (rows,) of each row.
        counts: (rows,) trials of each row.
    """
    n, trials = len(counts), float(counts.sum())
    share = float(successes.sum()) / trials
    if n > 1 and 0 < share < 1:
        residuals = successes - share * counts
        variance = n / (n - 1) * float(residuals @ residuals) / trials**2
        trials = min(trials, max(n, share * (1 - share) / variance)) if variance else trials
    return share, *beta_jeffreys(share * trials, trials, confidence)


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, it is {confidence}")
