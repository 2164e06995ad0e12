"""What the results of one policy amount to: per environment, and over environments as the weights say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentforge.evaluation.statistics.intervals import Array, beta_jeffreys, bootstrap_abc, effective_trials

FULL = 1 - 1e-9
"""A score from here on is full: sums of thirds do not end at 1 exactly."""


@dataclass(frozen=True)
class Measure:
    """A mean over tasks with its interval.

    Attributes:
        value, low, high: in [0, 1].
        kind: how the interval was made.
        n: independent trials it stands on: results, fewer where several samples of a task agree.
        variance: of the estimate, for the intervals of weighted sums.
    """

    value: float
    low: float
    high: float
    kind: str
    n: float
    variance: float = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in scores.json."""
        entry = {name: getattr(self, name) for name in ("value", "low", "high", "kind", "n")}
        return {name: round(entry[name], 6) if isinstance(entry[name], float) else entry[name] for name in entry}


@dataclass(frozen=True)
class Summary:
    """One policy in one environment.

    Attributes:
        n, tasks: results, and distinct tasks among them.
        accuracy: share of results with the full score.
        success_rate: share of results that met the task's own rule.
        mean, median, sd: of the scores.
        graded: some score lies between 0 and 1.
    """

    n: int
    tasks: int
    accuracy: Measure
    success_rate: Measure
    mean: Measure
    median: float
    sd: float
    graded: bool

    @property
    def headline(self) -> str:
        """Name of the measure that comparisons use."""
        return "mean" if self.graded else "success_rate"

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in scores.json."""
        measures = {name: getattr(self, name).as_json() for name in ("accuracy", "success_rate", "mean")}
        shown = {"n": self.n, "tasks": self.tasks, "graded": self.graded, "headline": self.headline}
        return {**shown, **measures, "median": round(self.median, 6), "sd": round(self.sd, 6)}


def summarise(
    scores: Array, successes: Array, tasks: np.ndarray[Any, Any], confidence: float, graded: bool = False
) -> Summary:
    """Summarise the results of one policy in one environment.

    Args:
        scores: (n,) in [0, 1].
        successes: (n,) of 0.0 and 1.0.
        tasks: (n,) task ids; results of one task are one cluster.
        confidence: mass of the intervals.
        graded: the environment's scores lie between 0 and 1, even if these do not.
    """
    if not len(scores):
        raise ValueError("no results to summarise")
    graded = graded or not bool(np.isin(scores, (0.0, 1.0)).all())
    clusters = Clusters(tasks)
    success_rate = proportion(successes, clusters, confidence)
    return Summary(
        n=len(scores),
        tasks=clusters.count,
        accuracy=proportion((scores >= FULL).astype(float), clusters, confidence),
        success_rate=success_rate,
        mean=graded_mean(scores, clusters, confidence) if graded else proportion(scores, clusters, confidence),
        median=float(np.median(scores)),
        sd=float(scores.std(ddof=1)) if len(scores) > 1 else 0.0,
        graded=graded,
    )


class Clusters:
    """Which results belong to the same task."""

    def __init__(self, tasks: np.ndarray[Any, Any]) -> None:
        distinct, self._index = np.unique(tasks, return_inverse=True)
        self.count = len(distinct)
        self.single = self.count == len(tasks)

    def means(self, values: Array) -> Array:
        """Return the mean of each task's values, (tasks,); the order of tasks has no meaning."""
        if self.single:
            return values
        sums = np.bincount(self._index, weights=values, minlength=self.count)
        means: Array = sums / np.bincount(self._index, minlength=self.count)
        return means


def proportion(outcomes: Array, clusters: Clusters, confidence: float) -> Measure:
    """Return a share with its Beta-Jeffreys interval, over effective trials where a task has several results."""
    rates = clusters.means(outcomes)
    value = float(rates.mean())
    trials = float(len(outcomes))
    if not clusters.single:
        # A task counts once, whatever number of its samples were lost: so every rate has the weight 1.
        trials = effective_trials(rates, np.ones(clusters.count), trials, confidence)
    low, high = beta_jeffreys(value * trials, trials, confidence)
    return Measure(value, low, high, "Beta-Jeffreys", trials, _beta_variance(value * trials, trials))


def graded_mean(scores: Array, clusters: Clusters, confidence: float) -> Measure:
    """Return a mean score with its ABC bootstrap interval over tasks."""
    values = clusters.means(scores)
    n, value = len(values), float(values.mean())
    low, high = bootstrap_abc(values, confidence)
    variance = float(values.var()) / n
    if variance < 1e-12 / n:
        # Nothing varied, and a variance of 0 would let this environment look certain in every aggregate. As much as of
        # a rate of 0 of n is known.
        variance = _beta_variance(0, n)
    return Measure(value, low, high, "bootstrap ABC", float(n), variance)


def weighted(measures: Sequence[Measure], weights: Sequence[float], confidence: float) -> Measure:
    """Return the weighted mean of independent measures, with the normal interval of its variance.

    Environments have their own tasks, so their variances add up; a sum of several is close to normal where each alone
    is not, which is why a single one keeps its own interval.
    """
    from scipy.special import ndtri

    if len(measures) == 1:
        return measures[0]
    shares = np.array(weights, dtype=float) / sum(weights)
    value = float(shares @ [m.value for m in measures])
    variance = float(shares**2 @ [m.variance for m in measures])
    half = float(ndtri((1 + confidence) / 2)) * variance**0.5
    trials = sum(m.n for m in measures)
    return Measure(value, max(0.0, value - half), min(1.0, value + half), "normal", trials, variance)


def aggregate(summaries: Sequence[Summary], confidence: float) -> dict[str, Measure]:
    """Return the spec's three aggregates.

    ``weighted_accuracy`` and ``weighted_mean`` weigh an environment by its results, ``success_rate`` all alike.
    """
    sizes = [float(s.n) for s in summaries]
    return {
        "weighted_accuracy": weighted([s.accuracy for s in summaries], sizes, confidence),
        "weighted_mean": weighted([s.mean for s in summaries], sizes, confidence),
        "success_rate": weighted([s.success_rate for s in summaries], [1.0] * len(sizes), confidence),
    }


def _beta_variance(successes: float, trials: float) -> float:
    """Return the variance of the Beta-Jeffreys posterior, a b / ((a + b)^2 (a + b + 1)).

    It is never 0, as p (1 - p) / n is at both ends.
    """
    a, b = successes + 0.5, trials - successes + 0.5
    return a * b / ((a + b) ** 2 * (a + b + 1))
