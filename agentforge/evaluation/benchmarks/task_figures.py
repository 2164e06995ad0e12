"""The figures of one benchmark: lm-eval's own values, with intervals over rows and the levels to compare them with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agentforge.artifacts import hash_json
from agentforge.evaluation.benchmarks.levels import levels
from agentforge.evaluation.own_scores import Figure
from agentforge.evaluation.statistics.intervals import beta_jeffreys, bootstrap_abc, ratio_t

RESAMPLES = 1000
Sample = Mapping[str, Any]


def measured_on(task: Any, settings: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Return what identifies a measurement: figures of two models are only put side by side where it is equal.

    It holds the task's version, the settings, and every row with the prompt and the right answer as they were asked.
    A few-shot example that differs changes the prompts, and with them this.
    """
    rows = [(one["doc_id"], one["doc_hash"], one["prompt_hash"], one["target_hash"]) for one in samples]
    generation = task.get_config("generation_kwargs") if task.OUTPUT_TYPE == "generate_until" else None
    return hash_json([task.task_name, str(task.VERSION), dict(settings), generation, sorted(set(rows))])


def figures(
    task: Any, results: Mapping[str, Any], samples: Sequence[Sample], confidence: float, identity: str
) -> dict[str, Figure]:
    """Return a figure for each metric of a task and each way of reading its answers (`filter`).

    Args:
        task: of lm-eval.
        results: lm-eval's aggregated values, ``metric,filter`` to value.
        samples: lm-eval's rows.
        confidence: mass of the intervals.
        identity: from `measured_on`.
    """
    found = {}
    for filter_name in dict.fromkeys(one["filter"] for one in samples):
        rows = [one for one in samples if one["filter"] == filter_name]
        for metric in dict.fromkeys(name for one in rows for name in one["metrics"]):
            value = float(results[f"{metric},{filter_name}"])
            per_row = [one[metric] for one in rows]
            low, high = _interval(value, per_row, task.aggregation().get(metric), confidence)
            docs = [one["doc"] for one in rows]
            chance, majority = levels(task, metric, docs, _binary(per_row))
            name = f"{task.task_name} {metric}" + ("" if filter_name == "none" else f" ({filter_name})")
            found[name] = Figure(value, low, high, len(rows), chance, "", majority, identity)
    return found


def _binary(values: Sequence[Any]) -> bool:
    return all(not isinstance(value, tuple | list) and float(value) in (0.0, 1.0) for value in values)


def _interval(
    value: float, values: Sequence[Any], aggregate: Callable[..., Any] | None, confidence: float
) -> tuple[float, float]:
    if _binary(values):
        return beta_jeffreys(sum(map(float, values)), len(values), confidence)
    name = getattr(aggregate, "__name__", "mean")
    if name in ("weighted_perplexity", "bits_per_byte"):
        return _of_likelihoods(values, name, confidence)
    if name != "mean" or any(isinstance(one, tuple | list) for one in values):
        return _resampled(values, aggregate, confidence) if aggregate is not None else (value, value)
    scores = np.array([float(one) for one in values])
    if scores.min() >= 0 and scores.max() <= 1:
        return bootstrap_abc(scores, confidence)
    if len(scores) < 2:
        return -math.inf, math.inf
    return ratio_t(scores, np.ones(len(scores)), confidence)[1:]


def _of_likelihoods(values: Sequence[Any], name: str, confidence: float) -> tuple[float, float]:
    """Return the interval of exp or log2 of a mean log-likelihood: that of the mean, carried over."""
    if len(values) < 2:
        return 0.0, math.inf
    likelihoods, weights = np.array(values, dtype=np.float64).T
    _, low, high = ratio_t(-likelihoods, weights, confidence)
    return (low / math.log(2), high / math.log(2)) if name == "bits_per_byte" else (math.exp(low), math.exp(high))


def _resampled(values: Sequence[Any], aggregate: Callable[..., Any], confidence: float) -> tuple[float, float]:
    """Return the percentile bootstrap over rows, for what is no mean over them (F1, Matthews correlation)."""
    rng = np.random.default_rng(0)
    draws = [aggregate([values[i] for i in rng.integers(0, len(values), len(values))]) for _ in range(RESAMPLES)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(draws, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)
