"""``benchmarks.jsonl``: every row of every task as it was asked, answered and scored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BENCHMARKS = "benchmarks"
"""Key of the figures in scores.json."""
ROWS = "benchmarks.jsonl"


def figure_name(task: str, metric: str, filter_name: str) -> str:
    """Return what a figure is called: ``gsm8k exact_match (strict-match)``, ``arc_easy acc``."""
    return f"{task} {metric}" + ("" if filter_name == "none" else f" ({filter_name})")


def benchmark_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that an evaluation wrote; none if it has no benchmarks."""
    file = path / ROWS
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def rows_of(name: str, samples: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows to write of one task, from lm-eval's samples."""
    for one in samples:
        answers = one["filtered_resps"]
        yield {
            "task": name,
            "row": one["doc_id"],
            "filter": one["filter"],
            "prompt": one["arguments"][0][0],
            "target": one["target"],
            "choices": [arguments[1] for arguments in one["arguments"]] if len(one["arguments"]) > 1 else None,
            "answer": answers[0] if len(answers) == 1 else answers,
            # What a filter made the answer of: all that the model wrote.
            "written": one["resps"][0][0] if isinstance(one["resps"][0][0], str) else None,
            "metrics": {metric: one[metric] for metric in one["metrics"]},
        }
