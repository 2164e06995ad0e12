"""Episodes as Parquet: every column of `Episode`, the conversations as JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentforge.artifacts import atomic_file, hash_json
from agentforge.errors import UserError, first_line
from agentforge.rollouts.episodes import Episode, Turn

EPISODES = "episodes.parquet"
"""The file, in the artefacts of `collect` and of evaluations."""
TURN = pa.struct(
    {
        "start": pa.int32(),
        "end": pa.int32(),
        "text": pa.string(),
        "observation": pa.string(),
        "reward": pa.float64(),
        "valid_action": pa.bool_(),
        "score": pa.float64(),
    }.items()
)
SCHEMA = pa.schema(
    {
        "environment": pa.string(),
        "task_id": pa.int64(),
        "seed": pa.int64(),
        "policy": pa.string(),
        "prompt_ids": pa.list_(pa.int32()),
        "token_ids": pa.list_(pa.int32()),
        "mask": pa.list_(pa.int8()),
        "logprobs": pa.list_(pa.float32()),
        "turns": pa.list_(TURN),
        "success": pa.bool_(),
        "score": pa.float64(),
        "terminated": pa.bool_(),
        "truncated": pa.bool_(),
        "messages": pa.string(),
        "tools": pa.string(),
        "seconds": pa.float64(),
    }.items()
)
# A struct column would give every message every key that any message has, with null for those it lacks.
JSON_COLUMNS = ("messages", "tools")
ROWS = 512
"""Episodes of a row group."""


def write_episodes(path: Path, episodes: Iterable[Episode]) -> int:
    """Write the episodes atomically; returns their number."""
    count = 0
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        remaining = iter(episodes)
        while batch := list(islice(remaining, ROWS)):
            writer.write_table(pa.Table.from_pylist([_row(episode) for episode in batch], SCHEMA))
            count += len(batch)
    return count


def hash_of_what_was_played(path: Path) -> str:
    """Return the SHA-256 of a file's episodes without their seconds: played again, they are the same input."""
    digest = hashlib.sha256()
    for episode in read_episodes(path):
        digest.update(hash_json(dataclasses.asdict(episode) | {"seconds": None}).encode())
    return digest.hexdigest()


def read_episodes(path: Path) -> Iterator[Episode]:
    """Yield the episodes of a file in their order.

    Raises:
        UserError: it is no file of episodes.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} is not a file of episodes: {first_line(error)}") from error
    with file:
        if missing := set(SCHEMA.names) - set(file.schema_arrow.names):
            raise UserError(f"{path} is not a file of episodes: it has no column {', '.join(sorted(missing))}")
        # A row group at a time: a file may be larger than the memory.
        for batch in file.iter_batches(ROWS, columns=SCHEMA.names):
            yield from map(_episode, batch.to_pylist())


def _row(episode: Episode) -> dict[str, Any]:
    row = {name: getattr(episode, name) for name in SCHEMA.names}
    row["turns"] = [dataclasses.asdict(turn) for turn in episode.turns]
    return row | {name: json.dumps(row[name], ensure_ascii=False) for name in JSON_COLUMNS}


def _episode(row: dict[str, Any]) -> Episode:
    row |= {name: json.loads(row[name]) for name in JSON_COLUMNS}
    return Episode(**(row | {"turns": [Turn(**turn) for turn in row["turns"]]}))
