"""What a number of tasks can show."""

from __future__ import annotations

import math

ALPHA = 0.05
POWER = 0.8


def smallest_difference(
    sd: float, n: float, environments: int = 1, alpha: float = ALPHA, power: float = POWER
) -> float:
    """Return the smallest true difference of two mean scores that is found with probability ``power``.

    (z(1 - alpha / environments) + z(power)) sd / sqrt(n): a one-sided test, its level shared among the environments
    (Bonferroni), as for "better somewhere".

    Args:
        sd: of a task's difference between the models; `unpaired_sd` where the tasks differ.
        n: tasks.
    """
    from scipy.special import ndtri

    if n <= 0:
        return math.inf
    return float(ndtri(1 - alpha / environments) + ndtri(power)) * sd / math.sqrt(n)


def tasks_for(difference: float, sd: float, environments: int = 1, alpha: float = ALPHA, power: float = POWER) -> int:
    """Return how many tasks find a true difference with probability ``power``."""
    return math.ceil((smallest_difference(sd, 1, environments, alpha, power) / difference) ** 2)


def difference_sd(rate: float, correlation: float = 0.0) -> float:
    """Return the sd of a task's difference between two models of the same success rate.

    sqrt(2 p (1 - p) (1 - r)); r is the correlation of their outcomes over tasks, 0 where they play different ones.
    """
    return math.sqrt(2 * rate * (1 - rate) * (1 - correlation))
