"""Differences row by row, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agentforge.evaluation.benchmarks.paired import cell, difference, page_group, paired_group


def evaluation(directory: Path, label: str, values: dict[str, list[float]], on: str = "same") -> Path:
    path = directory / label
    path.mkdir()
    figures = {f"{task} acc": {"value": 0, "low": 0, "high": 1, "n": 1, "measured_on": on} for task in values}
    own = {"benchmarks": {"title": "t", "measured_on": "x", "confidence": 0.8, "figures": figures}}
    (path / "scores.json").write_text(json.dumps({"model": {"label": label}, "own": own}))
    rows = [
        {"task": task, "row": row, "filter": "none", "metrics": {"acc": value}}
        for task, found in values.items()
        for row, value in reversed(list(enumerate(found)))
    ]
    (path / "benchmarks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_mcnemar_and_the_paired_interval() -> None:
    first = np.array([1.0] * 40 + [0.0] * 60)
    other = first.copy()
    other[40:52] = 1.0
    other[:2] = 0.0
    found = difference(first, other, 0.8)
    assert found.value == pytest.approx(0.10)
    assert (found.better, found.worse) == (12, 2)
    assert found.p == pytest.approx(2 * (1 + 14 + 91) / 2**14)  # P(X <= 2) of 14 coins, twice
    assert 0 < found.low < 0.1 < found.high
    # Two models of this accuracy on rows of their own could not be told apart.
    assert found.high - found.low < 2 * 1.28 * (0.5 * 0.5 * 2 / 100) ** 0.5


def test_only_the_same_measurement_is_compared(tmp_path: Path) -> None:
    first = evaluation(tmp_path, "base", {"a": [1, 0, 0, 1], "b": [1, 1]})
    second = evaluation(tmp_path, "lora", {"a": [1, 1, 0, 1]})
    other = evaluation(tmp_path, "other", {"a": [1, 1, 1, 1]}, on="other rows")
    group = paired_group([first, second, other])
    assert group is not None
    assert (group.first, group.labels, list(group.rows)) == ("base", ["lora", "other"], ["a acc"])
    found, none = group.rows["a acc"]
    assert none is None and found is not None
    assert cell(found).startswith("+25.0 [") and "(1 : 0, p 1)" in cell(found)
    assert page_group([first, second])[0]["tables"][0]["rows"][0][0] == "a acc"
    assert paired_group([first]) is None
    assert page_group([first, other]) == []


def test_graded_scores_have_no_mcnemar_test() -> None:
    first = np.linspace(0, 0.5, 20)
    found = difference(first, first + 0.4 + 0.1 * (np.arange(20) % 2), 0.8)
    assert found.p is None and ", p " not in cell(found) and "▲" in cell(found)
