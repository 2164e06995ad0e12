"""Two models on the same benchmark rows: the difference, row by row, so that what makes a row hard cancels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.evaluation.benchmarks.rows import benchmark_rows
from agentforge.evaluation.own_scores import OWN
from agentforge.evaluation.scores_file import read_scores
from agentforge.evaluation.statistics.intervals import ratio_t

Values = dict[int, float]
"""Of one model and metric: row to value."""


@dataclass(frozen=True)
class Difference:
    """How much better a model is than the first one.

    Attributes:
        value, low, high: of the mean difference.
        better, worse: rows on which it is.
        n: rows.
    """

    value: float
    low: float
    high: float
    better: int
    worse: int
    n: int


@dataclass(frozen=True)
class Paired:
    """A benchmark's metric for models that were asked the same; the others are compared with the first."""

    name: str
    confidence: float
    labels: list[str]
    differences: list[Difference]


def paired_metrics(paths: Sequence[Path]) -> list[Paired]:
    """Return the paired differences of evaluations, of each metric that two of them measured on the same rows."""
    columns: dict[tuple[str, str, float], list[tuple[str, Values]]] = {}
    for path in paths:
        report = read_scores(path)
        scores: dict[str, Any] | None = report.get(OWN, {}).get("benchmarks")
        if scores is None:
            continue
        values = _values(path)
        for name, figure in scores["figures"].items():
            # The identity holds the rows, the prompts and the settings: where it is equal, rows have equal numbers.
            key = name, figure.get("measured_on", ""), scores["confidence"]
            if name in values:
                columns.setdefault(key, []).append((report["model"]["label"], values[name]))
    return [
        Paired(
            name, confidence, [label for label, _ in own], [difference(own[0][1], o, confidence) for _, o in own[1:]]
        )
        for (name, _, confidence), own in columns.items()
        if len(own) > 1 and len(own[0][1]) > 1
    ]


def difference(first: Values, other: Values, confidence: float) -> Difference:
    """Return the difference of another model to the first over the same rows, at least two."""
    gained = np.array([other[row] - value for row, value in first.items()])
    value, low, high = (float(x) for x in ratio_t(gained, np.ones(len(gained)), confidence))
    return Difference(value, low, high, int((gained > 0).sum()), int((gained < 0).sum()), len(gained))


def _values(path: Path) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for row in benchmark_rows(path):
        for metric, value in row["metrics"].items():
            if isinstance(value, int | float):
                name = f"{row['task']} {metric}" + ("" if row["filter"] == "none" else f" ({row['filter']})")
                found.setdefault(name, {})[row["row"]] = float(value)
    return found
