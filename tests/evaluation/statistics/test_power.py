"""The power that the formula promises against the power that a simulated test has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from agentforge.evaluation.statistics.power import difference_sd, smallest_difference, tasks_for


@pytest.mark.parametrize("environments", [1, 8])
@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_smallest_difference_is_found_four_times_in_five(environments: int, correlation: float) -> None:
    n, rate = 400, 0.5
    delta = smallest_difference(difference_sd(rate, correlation), n, environments)
    rng = np.random.default_rng(0)
    # a shared coin decides a share of tasks for both models: that is the correlation of their outcomes
    shared = rng.random((4000, n, 1)) < correlation
    both = rng.random((4000, n, 1)) < rate
    own = rng.random((4000, n, 2)) < rate
    scores = np.where(shared, both, own).astype(float)
    difference = scores[..., 0] - scores[..., 1]
    z = (difference.mean(axis=1) + delta) / difference.std(axis=1) * math.sqrt(n)
    assert (z > norm.ppf(1 - 0.05 / environments)).mean() == pytest.approx(0.8, abs=0.03)


def test_tasks_for_is_the_inverse() -> None:
    sd = difference_sd(0.3, 0.4)
    n = tasks_for(0.05, sd, environments=3)
    assert smallest_difference(sd, n, 3) <= 0.05 < smallest_difference(sd, n - 1, 3)
    assert smallest_difference(sd, 0) == math.inf


def test_the_textbooks_sample_size() -> None:
    """Two groups at p = 0.5 that differ by 0.1: 7.85 x 2 p (1 - p) / 0.1^2 = 393 each, two-sided 5 %, power 80 %."""
    assert tasks_for(0.1, difference_sd(0.5), alpha=0.025) == 393
