"""Checkpoints that are complete or not used: a marker with the SHA-256 of every file is written last.

`transformers` takes the highest number for the newest checkpoint and starts the optimiser afresh, without a word, if
its state is missing; a kill between two files therefore ends in a crash loop or in other weights.

A checkpoint without a marker is torn: the process died while it was saved. One whose files are not those of its marker,
or whose marker makes no sense, is damaged: somebody or the disk changed it later. Behind a whole checkpoint both are
deleted, because the run makes them again and the plan has no disk for them. Where no whole one is left, torn ones are
as good as none (nothing had been saved yet); damaged ones are what a user paid for, so the run refuses.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

from agentforge.artifacts import hash_files, write_json
from agentforge.errors import CheckRefused

log = logging.getLogger(__name__)

MARKER = "complete.json"


def seal(checkpoint: Path, *, world_size: int) -> None:
    """Declare a checkpoint complete; to be called when every process has written its files."""
    write_json(checkpoint / MARKER, {"world_size": world_size, "files": hash_files(checkpoint)})


def has_sealed(directory: Path) -> bool:
    """Tell whether any checkpoint was ever complete: what came before the first one costs nothing to lose."""
    return any((checkpoint / MARKER).exists() for checkpoint in _numbered(directory))


def newest_complete(directory: Path, *, world_size: int, restart: bool = False) -> Path | None:
    """Return the newest checkpoint whose files are all as they were sealed, and delete those behind which it stands.

    Args:
        directory: holds ``checkpoint-N`` directories.
        world_size: processes of this run.
        restart: delete all of them and begin at step 0.

    Raises:
        CheckRefused: a file of the newest one is gone (going on without it would silently train another model), it was
            written by another number of processes, or all are damaged.
    """
    useless: dict[Path, str] = {}
    for checkpoint in _numbered(directory):
        if restart:
            useless[checkpoint] = "is thrown away by --restart"
        elif (problem := _problem(checkpoint)) is None:
            _check_world(checkpoint, world_size)
            _delete(useless, f"the run continues from {checkpoint.name}")
            return checkpoint
        else:
            useless[checkpoint] = problem
    if not restart:
        _refuse_to_lose(useless)
    _delete(useless, "the run starts at step 0")
    return None


def _numbered(directory: Path) -> list[Path]:
    """Return the checkpoints, the newest first."""
    found = [path for path in directory.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def _delete(useless: dict[Path, str], then: str) -> None:
    for checkpoint, problem in useless.items():
        log.warning("%s %s; it is deleted, and %s", checkpoint.name, problem, then)
        shutil.rmtree(checkpoint)


def _refuse_to_lose(useless: dict[Path, str]) -> None:
    damaged = [checkpoint for checkpoint in useless if (checkpoint / MARKER).exists()]
    if damaged:
        newest = damaged[0]
        raise CheckRefused(
            f"no checkpoint in {newest.parent} is whole: {newest.name} {useless[newest]}. Restore its files from a "
            f"copy, or run `agentforge train` with --restart to lose {step_of(newest)} steps and begin at step 0"
        )


def _problem(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be gone on from, as the end of a sentence, or None."""
    if not (checkpoint / MARKER).exists():
        return "was not finished when the process died"
    marker = _read_marker(checkpoint)
    if marker is None:
        return f"was altered ({MARKER})"
    sealed: dict[str, str] = marker["files"]
    if missing := sorted(name for name in sealed if not (checkpoint / name).is_file()):
        raise CheckRefused(
            f"{checkpoint / missing[0]} is missing: without it the run would continue with different numbers; put it "
            f"back, or delete {checkpoint} to continue from the checkpoint before it"
        )
    found = hash_files(checkpoint)
    if altered := sorted(name for name, digest in sealed.items() if found[name] != digest):
        return f"was altered ({', '.join(altered)})"
    return None


def _read_marker(checkpoint: Path) -> dict[str, Any] | None:
    """Return a marker as `seal` writes it, or None for anything else."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(marker, dict) or type(marker.get("world_size")) is not int:
        return None
    return marker if isinstance(marker.get("files"), dict) else None


def _check_world(checkpoint: Path, world_size: int) -> None:
    written_by = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))["world_size"]
    if written_by != world_size:
        raise CheckRefused(
            f"{checkpoint} was written by {written_by} processes, but this run has {world_size}: batches and random "
            f"numbers would differ; start {written_by} processes, or pass --restart to begin at step 0"
        )
