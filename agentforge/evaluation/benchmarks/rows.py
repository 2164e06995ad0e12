"""The rows that an evaluation of benchmarks leaves beside its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROWS = "benchmarks.jsonl"


def benchmark_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows that an evaluation wrote; none if it has no benchmarks."""
    file = path / ROWS
    if not file.is_file():
        return []
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
