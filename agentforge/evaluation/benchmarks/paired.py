"""Two models on the same benchmark rows: the difference, row by row, so that what makes a row hard cancels out.

Metrics in [0, 1] are compared: a perplexity is no mean over rows, and F1 has no value on one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.evaluation.benchmarks.rows import benchmark_rows
from agentforge.evaluation.own_scores import OWN
from agentforge.evaluation.scores_file import read_scores
from agentforge.evaluation.statistics.intervals import bootstrap_abc

Values = dict[int, float]
"""Of one model and metric: row to value."""


@dataclass(frozen=True)
class Difference:
    """How much better a model is than the first one.

    Attributes:
        value, low, high: of the mean difference; the interval is that of the paired bootstrap (expanded ABC).
        better, worse: rows on which it is.
        n: rows.
        p: of McNemar's exact test: how often a coin would split the rows that differ so unevenly; None: the metric is
            graded, and the test is of right and wrong.
    """

    value: float
    low: float
    high: float
    better: int
    worse: int
    n: int
    p: float | None


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
        if len(own) > 1
    ]


def difference(first: Values, other: Values, confidence: float) -> Difference:
    """Return the difference of another model to the first over the same rows, with values in [0, 1].

    McNemar, Psychometrika 12(2), 1947; exact: the rows that differ are a binomial sample with p = 1/2.
    """
    from scipy.stats import binomtest

    gained = np.array([other[row] - value for row, value in first.items()])
    # The interval is one of means in [0, 1], and differences lie in [-1, 1].
    low, high = bootstrap_abc((gained + 1) / 2, confidence)
    better, worse = int((gained > 0).sum()), int((gained < 0).sum())
    binary = {*first.values(), *other.values()} <= {0.0, 1.0}
    p = (float(binomtest(better, better + worse).pvalue) if better + worse else 1.0) if binary else None
    return Difference(float(gained.mean()), 2 * low - 1, 2 * high - 1, better, worse, len(gained), p)


def cells(pair: Paired) -> list[list[str]]:
    """Return a line of a table for each model but the first: metric, model, the first, the difference in points."""
    lines = []
    for label, found in zip(pair.labels[1:], pair.differences, strict=True):
        mark = "▲" if found.low > 0 else "▼" if found.high < 0 else "≈"
        p = "" if found.p is None else f", p {found.p:.2g}"
        points = f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        lines.append([pair.name, label, pair.labels[0], f"{points} {mark} ({found.better} : {found.worse}{p})"])
    return lines


TITLE = "benchmarks: differences, row by row"
HEADINGS = ("", "model", "against", "points")
EXPLANATION = (
    "mean difference [{confidence:.0%} interval] (rows better : rows worse, p of McNemar's exact test); each line by "
    "itself, not corrected for how many there are"
)


def page_groups(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a section for a report's page, if there is anything to compare."""
    pairs = paired_metrics(paths)
    if not pairs:
        return []
    table = {"headings": list(HEADINGS), "rows": [line for pair in pairs for line in cells(pair)], "caption": None}
    explanation = EXPLANATION.format(confidence=pairs[0].confidence)
    group = {"id": "benchmarks-paired", "title": TITLE, "explanation": f"{explanation[0].upper()}{explanation[1:]}."}
    return [{**group, "charts": [], "tables": [table], "tiles": []}]


def _values(path: Path) -> dict[str, Values]:
    found: dict[str, Values] = {}
    for row in benchmark_rows(path):
        for metric, value in row["metrics"].items():
            if isinstance(value, int | float):
                name = f"{row['task']} {metric}" + ("" if row["filter"] == "none" else f" ({row['filter']})")
                found.setdefault(name, {})[row["row"]] = float(value)
    return {name: own for name, own in found.items() if all(0 <= value <= 1 for value in own.values())}
