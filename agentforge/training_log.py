"""`metrics.jsonl`, the log of a training: what it is called, and how it is read. Writing it is a callback's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, each with its ``step``; a missing file has none.

    A line that is no object with a step is left out: a kill cuts the last one, and a crash of the machine can leave
    zeros behind it. Neither may keep a training from continuing, or a page from being drawn.
    """
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            found.append(row)
    return found
