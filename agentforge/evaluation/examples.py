"""A few whole episodes of an evaluation, for people to read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentforge.rollouts.episodes import Episode

EPISODES = "episodes.parquet"
OF_EACH_KIND = 3
"""So many that succeeded and so many that did not, of each environment."""

SCHEMA = pa.schema(
    {
        "environment": pa.string(),
        "task_id": pa.int64(),
        "seed": pa.int64(),
        "policy": pa.string(),
        "success": pa.bool_(),
        "score": pa.float64(),
        "truncated": pa.bool_(),
        "messages": pa.string(),
        "turns": pa.string(),
    }
)


def write_examples(played: Mapping[str, Sequence[Episode]], path: Path) -> None:
    """Write the first episodes that succeeded and the first that did not, of each environment."""
    rows = []
    for name, episodes in played.items():
        for success in (True, False):
            rows += [_row(name, e) for e in [e for e in episodes if e.success is success][:OF_EACH_KIND]]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def read_examples(directory: Path) -> list[dict[str, Any]]:
    """Return the episodes of an evaluation with their messages and turns; none if it kept none."""
    path = directory / EPISODES
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = pq.read_table(path).cast(SCHEMA).to_pylist()
    return [{**row, "messages": json.loads(row["messages"]), "turns": json.loads(row["turns"])} for row in rows]


def _row(environment: str, episode: Episode) -> dict[str, Any]:
    row = {name: getattr(episode, name) for name in SCHEMA.names if name not in ("environment", "messages", "turns")}
    turns = [asdict(turn) for turn in episode.turns]
    return {"environment": environment, **row, "messages": json.dumps(episode.messages), "turns": json.dumps(turns)}
