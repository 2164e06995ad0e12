"""The bootstrap over rows against what has a closed form, and against resampling row by row."""

from __future__ import annotations

import numpy as np
import pytest

from agentforge.evaluation.statistics.bootstrap import percentile_interval, row_weights
from agentforge.evaluation.statistics.intervals import ratio_t


def test_the_interval_of_a_mean_is_student_s() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(5, 30, 40).astype(float)
    sums = counts * random.normal(2, 0.5, 40)
    weights = row_weights(40, seed=1, resamples=20_000)
    found = percentile_interval((weights @ sums) / (weights @ counts), 40, 0.8)
    assert found == pytest.approx(ratio_t(sums, counts, 0.8), rel=5e-3)


def test_few_rows_make_a_wider_interval_than_plain_percentiles() -> None:
    sums = np.random.default_rng(0).normal(size=6)
    values = row_weights(6, seed=0) @ sums / 6
    _, low, high = percentile_interval(values, 6, 0.8)
    plain = np.quantile(values[1:], [0.1, 0.9])
    assert low < plain[0] and plain[1] < high


def test_each_resample_draws_as_many_rows_as_there_are() -> None:
    weights = row_weights(7, seed=0, resamples=50)
    assert weights.shape == (51, 7)
    assert (weights[0] == 1).all() and (weights.sum(1) == 7).all()
    assert (weights == row_weights(7, seed=0, resamples=50)).all() and len({*map(tuple, weights)}) > 40
    with pytest.raises(ValueError, match="at least two"):
        row_weights(1, seed=0)
