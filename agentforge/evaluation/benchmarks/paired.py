"""Two models on the same rows of a benchmark: the difference, its interval, and how many rows each alone got right.

Two intervals that overlap say little about two models that answered the same questions: most of what moves their scores
is which questions are hard, and that is common to both. Row by row it cancels out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.evaluation.benchmarks.benchmark_rows import BENCHMARKS, benchmark_rows, figure_name
from agentforge.evaluation.own_scores import OWN
from agentforge.evaluation.scores_file import read_scores
from agentforge.evaluation.statistics.intervals import Array, bootstrap_abc

Rows = dict[str, Array]


@dataclass(frozen=True)
class Difference:
    """A later model's score minus the first one's, on the same rows.

    Attributes:
        value, low, high: the mean difference, with its interval from the paired bootstrap (expanded ABC).
        better, worse: rows on which the later model scored more, and less.
        p: of the exact McNemar test: how often rows that differ would split so unevenly by a coin; None: the metric is
            graded, and the test is of right and wrong.
    """

    value: float
    low: float
    high: float
    better: int
    worse: int
    p: float | None


@dataclass(frozen=True)
class PairedGroup:
    """Differences to one model: a column for each other model, a row for each metric of each task."""

    first: str
    confidence: float
    labels: list[str]
    rows: dict[str, list[Difference | None]]


def difference(first: Array, other: Array, confidence: float) -> Difference:
    """Compare two models' values in [0, 1] on the same rows, `(n,)` each.

    McNemar, Psychometrika 12(2), 1947; exact: the rows that differ are a binomial sample with p = 1/2.
    """
    from scipy.stats import binomtest

    changes = other - first
    # The interval is one of means in [0, 1]; differences lie in [-1, 1].
    low, high = bootstrap_abc((changes + 1) / 2, confidence)
    better, worse = int((changes > 0).sum()), int((changes < 0).sum())
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(other, (0, 1)).all())
    p = (float(binomtest(better, better + worse).pvalue) if better + worse else 1.0) if binary else None
    return Difference(float(changes.mean()), 2 * low - 1, 2 * high - 1, better, worse, p)


def paired_group(paths: Sequence[Path]) -> PairedGroup | None:
    """Return the differences to the first evaluation that has benchmarks; None: there is nothing to compare with it.

    Only figures with the same `measured_on` are compared: same task and version, rows, prompts and settings.
    """
    found = [(read_scores(path), path) for path in paths]
    found = [(report, path) for report, path in found if BENCHMARKS in report.get(OWN, {})]
    if len(found) < 2:
        return None
    scores = [report[OWN][BENCHMARKS] for report, _ in found]
    values = [_values(path) for _, path in found]
    confidence = float(scores[0]["confidence"])
    rows: dict[str, list[Difference | None]] = {}
    for name, figure in scores[0]["figures"].items():
        cells = []
        for score, own in zip(scores[1:], values[1:], strict=True):
            same = _comparable(name, figure, score, values[0], own)
            cells.append(difference(values[0][name], own[name], confidence) if same else None)
        if any(cells):
            rows[name] = cells
    labels = [str(report["model"]["label"]) for report, _ in found]
    return PairedGroup(labels[0], confidence, labels[1:], rows) if rows else None


def _comparable(name: str, figure: dict[str, Any], other: dict[str, Any], first: Rows, second: Rows) -> bool:
    found = other["figures"].get(name)
    same = found is not None and found["measured_on"] == figure["measured_on"]
    return same and name in first and name in second and len(first[name]) == len(second[name])


def _values(path: Path) -> Rows:
    """Return each metric's values by row, in the order of the rows; metrics that are no number in [0, 1] are left out.

    A perplexity is no mean over rows, and F1 has no value on one row.
    """
    found: dict[str, dict[int, Any]] = {}
    for row in benchmark_rows(path):
        for metric, value in row["metrics"].items():
            found.setdefault(figure_name(row["task"], metric, row["filter"]), {})[row["row"]] = value
    usable = {
        name: by_row
        for name, by_row in found.items()
        if all(isinstance(value, int | float) and 0 <= value <= 1 for value in by_row.values())
    }
    return {name: np.array([float(by_row[row]) for row in sorted(by_row)]) for name, by_row in usable.items()}


def cell(found: Difference | None) -> str:
    """Return a difference for people, in points: better, worse, or not to be told apart (▲ ▼ ≈)."""
    if found is None:
        return ""
    mark = "▲" if found.low > 0 else "▼" if found.high < 0 else "≈"
    p = "" if found.p is None else f", p {found.p:.2g}"
    points = f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return f"{points} {mark} ({found.better} : {found.worse}{p})"


EXPLANATION = (
    "points [{confidence:.0%} interval of the paired bootstrap] (rows better : worse, p of McNemar's exact test); each "
    "cell by itself, not corrected for the number of cells"
)


def page_group(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a section for a report's page, if there is anything to compare."""
    group = paired_group(paths)
    if group is None:
        return []
    table = {
        "headings": ["", *group.labels],
        "rows": [[name.replace("_", " "), *map(cell, row)] for name, row in group.rows.items()],
        "caption": None,
    }
    return [
        {
            "id": "benchmarks-paired",
            "title": f"benchmarks, row by row against {group.first}",
            "explanation": EXPLANATION.format(confidence=group.confidence).capitalize() + ".",
            "charts": [],
            "tables": [table],
            "tiles": [],
        }
    ]
