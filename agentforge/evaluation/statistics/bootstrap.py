"""The bootstrap over rows, for what has no interval in closed form: a largest of means, a ratio, a correlation."""

from __future__ import annotations

import numpy as np

from agentforge.evaluation.statistics.intervals import Array

RESAMPLES = 2000


def row_weights(rows: int, seed: int, resamples: int = RESAMPLES) -> Array:
    """Return (1 + resamples, rows): how often each row is in the sample itself, and in each resample of it.

    Whatever is a function of sums over rows is resampled by one matrix product, ``weights @ sums``: entry 0 of the
    result is the estimate, the others are its bootstrap distribution. Two quantities under the same weights stay
    paired: a row that is hard for all models is in all of them equally often.

    Args:
        rows: at least two.
        seed: of the draws.

    Raises:
        ValueError: there are fewer than two rows.
    """
    if rows < 2:
        raise ValueError("an interval over rows needs at least two")
    drawn = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=resamples)
    return np.vstack([np.ones(rows), drawn]).astype(np.float64)


def percentile_interval(values: Array, rows: int, confidence: float) -> tuple[float, float, float]:
    """Return the estimate and its expanded percentile interval.

    Plain percentiles of few rows are too narrow: they divide by n where n - 1 is due, and have the normal's tails
    instead of Student's. Expanded, the tail a is Phi(sqrt(n / (n - 1)) t), with t the a-quantile of Student's t with
    n - 1 degrees of freedom (Hesterberg, What Teachers Should Know About the Bootstrap, American Statistician 69(4),
    2015, section 4.3).

    Args:
        values: (1 + resamples,) as `row_weights` makes them; the first is the estimate.
        rows: that were resampled.
        confidence: mass of the interval.
    """
    from scipy.special import ndtr, stdtrit

    tail = float(ndtr((rows / (rows - 1)) ** 0.5 * stdtrit(rows - 1, (1 - confidence) / 2)))
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    # An estimate outside its own interval (a maximum is biased upwards) would only confuse: it is let in.
    return float(values[0]), float(min(low, values[0])), float(max(high, values[0]))
