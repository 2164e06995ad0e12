"""Differences between models on the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentforge.evaluation.benchmarks.paired import difference, page_groups, paired_metrics
from agentforge.evaluation.benchmarks.rows import ROWS
from agentforge.evaluation.compare.side_by_side import tables


def made(path: Path, label: str, values: list[float], identity: str = "sha256:abc") -> Path:
    path.mkdir()
    figure: dict[str, Any] = {"value": float(np.mean(values)), "low": 0.1, "high": 0.9, "n": len(values)}
    figures = {"t acc": figure | {"measured_on": identity}}
    scores = {"title": "benchmarks", "measured_on": "lm-eval", "confidence": 0.8, "figures": figures}
    report = {"recipe": "R", "model": {"label": label, "kind": "hf"}, "own": {"benchmarks": scores}}
    (path / "scores.json").write_text(json.dumps(report))
    rows = [{"task": "t", "row": n, "filter": "none", "metrics": {"acc": v}} for n, v in enumerate(values)]
    (path / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_makes_rows_hard_cancels_out(tmp_path: Path) -> None:
    first = [0.0] * 50 + [1.0] * 50
    second = [*first[:45], *([1.0] * 55)]  # five rows more, none fewer
    (pair,) = paired_metrics([made(tmp_path / "a", "a", first), made(tmp_path / "b", "b", second)])
    (found,) = pair.differences
    assert (found.better, found.worse, found.n, found.value) == (5, 0, 100, pytest.approx(0.05))
    assert found.low > 0  # apart, although the intervals of the two alone overlap widely


def test_models_that_agree_are_not_equal_for_certain() -> None:
    rows = {n: float(n % 2) for n in range(10)}
    found = difference(rows, dict(rows), 0.8)
    assert (found.value, found.p) == (0, 1)
    assert found.low < 0 < found.high  # ten rows on which they agree say nothing of the eleventh


def test_mcnemar_is_exact() -> None:
    first = {n: float(n < 40) for n in range(100)}
    other = {n: float(2 <= n < 52) for n in range(100)}
    found = difference(first, other, 0.8)
    assert (found.better, found.worse) == (12, 2)
    assert found.p == pytest.approx(2 * (1 + 14 + 91) / 2**14)  # P(X <= 2) of 14 coins, twice


def test_graded_scores_have_no_test_of_right_and_wrong() -> None:
    first = {n: n / 40 for n in range(20)}
    found = difference(first, {n: value + 0.4 + 0.05 * (n % 2) for n, value in first.items()}, 0.8)
    assert found.p is None and found.low > 0


def test_a_perplexity_is_not_compared_row_by_row(tmp_path: Path) -> None:
    assert paired_metrics([made(tmp_path / "a", "a", [0.0, 12.5]), made(tmp_path / "b", "b", [0.0, 11.0])]) == []


def test_models_that_were_asked_otherwise_are_not_paired(tmp_path: Path) -> None:
    paths = [made(tmp_path / "a", "a", [0.0, 1.0]), made(tmp_path / "b", "b", [0.0, 1.0], "sha256:def")]
    assert paired_metrics(paths) == []


def test_compare_shows_the_differences(tmp_path: Path) -> None:
    paths = [made(tmp_path / "a", "a", [0.0, 1.0, 0.0]), made(tmp_path / "b", "b", [1.0, 1.0, 0.0])]
    titles = [str(table.title) for table in tables(paths)]
    assert titles == ["benchmarks", "benchmarks: differences, row by row"]
    (group,) = page_groups(paths)
    (line,) = group["tables"][0]["rows"]
    assert line[:3] == ["t acc", "b", "a"] and "(1 : 0, p 1)" in line[3]
    assert page_groups(paths[:1]) == []
