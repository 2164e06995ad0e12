"""Results of episodes, one row each, as Parquet; and the matrices that comparisons are made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from agentforge.artifacts import hash_json
from agentforge.errors import UserError, first_line
from agentforge.evaluation.statistics.intervals import Array
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.scheduler import Task

RESULTS = "results.parquet"
OPENING = 2
"""Messages of an episode before the policy's first turn: the instructions and the first observation."""
SCHEMA = pa.schema(
    {
        "policy": pa.string(),
        "environment": pa.string(),
        "task_id": pa.int64(),
        "sample": pa.int32(),
        "seed": pa.int64(),
        "difficulty": pa.int32(),
        "asked": pa.string(),
        "score": pa.float64(),
        "success": pa.bool_(),
        "reward": pa.float64(),
        "turns": pa.int32(),
        "valid_turns": pa.int32(),
        "terminated": pa.bool_(),
        "truncated": pa.bool_(),
        "prompt_tokens": pa.int32(),
        "new_tokens": pa.int32(),
        "seconds": pa.float64(),
    }
)


def result_row(task: Task, episode: Episode, difficulty: int) -> dict[str, Any]:
    """Return an episode as one row; `difficulty`: see `Environment.difficulty`."""
    return {
        "policy": episode.policy,
        "environment": task.environment,
        "task_id": task.task_id,
        "sample": task.sample,
        "seed": task.seed,
        "difficulty": difficulty,
        "asked": hash_json(episode.messages[:OPENING])[:16],
        "score": float(min(1.0, max(0.0, episode.score))),
        "success": episode.success,
        "reward": episode.reward,
        "turns": len(episode.turns),
        "valid_turns": sum(turn.valid_action for turn in episode.turns),
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "prompt_tokens": len(episode.prompt_ids),
        "new_tokens": sum(episode.mask),
        "seconds": episode.seconds,
    }


def results_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Return rows as a table."""
    return pa.Table.from_pylist(list(rows), SCHEMA)


def write_results(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write rows as Parquet."""
    pq.write_table(results_table(rows), path)


def read_results(directory: Path) -> pa.Table:
    """Read what an evaluation wrote.

    Raises:
        UserError: there is none, or it is no such file.
    """
    path = directory / RESULTS
    try:
        # A file with other columns, from another version, fails here and not in the middle of a chart.
        return pq.read_table(path).cast(SCHEMA)
    except FileNotFoundError:
        raise UserError(f"{directory} is not an evaluation over environments: it has no {RESULTS}") from None
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}; evaluate again with --replace") from None


def columns(table: pa.Table, *names: str) -> list[np.ndarray[Any, Any]]:
    """Return columns as arrays."""
    return [table[name].to_numpy() for name in names]


def environment_rows(table: pa.Table, environment: str) -> pa.Table:
    """Return the rows of one environment."""
    return table.filter(pa.compute.equal(table["environment"], environment))


def asked_otherwise(one: pa.Table, other: pa.Table) -> tuple[str, int] | None:
    """Return the first task (environment, id) that two evaluations opened with other words; None: there is none.

    Ids alone do not tell: what stands behind an id changes with an environment's data and with its instructions.
    """
    known = {(environment, task): asked for environment, task, asked in _openings(one)}
    for environment, task, asked in _openings(other):
        if known.get((environment, task), asked) != asked:
            return environment, task
    return None


def _openings(table: pa.Table) -> list[tuple[str, int, str]]:
    """Return every task once with the hash of its opening: all samples of a task open alike."""
    names = ["environment", "task_id", "asked"]
    distinct = table.select(names).group_by(names).aggregate([])
    return sorted(zip(*(distinct[name].to_pylist() for name in names), strict=True))


def task_means(table: pa.Table, environment: str, column: str) -> dict[int, float]:
    """Return each task's mean of ``score`` or ``success`` over its samples."""
    tasks, values = columns(environment_rows(table, environment), "task_id", column)
    # Samples of one task are not independent, so each task counts once, however often it was played.
    distinct, index = np.unique(tasks, return_inverse=True)
    sums = np.bincount(index, weights=values.astype(float)) / np.bincount(index)
    return dict(zip(distinct.tolist(), sums.tolist(), strict=True))


def paired(tables: Sequence[pa.Table], environment: str, column: str) -> Array:
    """Return task means of several models on the tasks that all of them have played, (tasks, models)."""
    means = [task_means(table, environment, column) for table in tables]
    # Only tasks that every model has played are compared: an episode that one lost says nothing about the others.
    shared = sorted(set.intersection(*(set(found) for found in means))) if means else []
    return np.array([[found[task] for found in means] for task in shared], dtype=float).reshape(-1, len(means))
