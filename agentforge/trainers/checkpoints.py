"""Checkpoints that are complete or not used: a marker with the SHA-256 of every file is written last.

`transformers` takes the highest number for the newest checkpoint and starts the optimiser afresh, without a word, if
its state is missing; a kill between two files therefore ends in a crash loop or in other weights.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from agentforge.artifacts import hash_files, write_json
from agentforge.errors import CheckRefused

log = logging.getLogger(__name__)

MARKER = "complete.json"


def seal(checkpoint: Path, *, world_size: int) -> None:
    """Declare a checkpoint complete; to be called when every process has written its files."""
    write_json(checkpoint / MARKER, {"world_size": world_size, "files": hash_files(checkpoint)})


def newest_complete(directory: Path, *, world_size: int) -> Path | None:
    """Return the newest checkpoint whose files are all as they were sealed; torn and altered ones are set aside.

    Args:
        directory: holds ``checkpoint-N`` directories.
        world_size: processes of this run.

    Raises:
        CheckRefused: a file of the newest one is gone (going on without it would silently train another model), or it
            was written by another number of processes.
    """
    numbered = [
        (int(m[1]), path)
        for path in directory.glob("checkpoint-*")
        if (m := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    for _, checkpoint in sorted(numbered, reverse=True):
        if (problem := _damage(checkpoint)) is None:
            _check_world(checkpoint, world_size)
            return checkpoint
        aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
        log.warning("%s %s; it is set aside as %s", checkpoint.name, problem, aside.name)
    return None


def _damage(checkpoint: Path) -> str | None:
    try:
        sealed: dict[str, str] = json.loads((checkpoint / MARKER).read_text())["files"]
    except (OSError, ValueError, KeyError):
        return "was not finished when the process died"
    if missing := sorted(name for name in sealed if not (checkpoint / name).is_file()):
        raise CheckRefused(
            f"{checkpoint / missing[0]} is missing: without it the run would go on with other numbers; put it back, "
            f"or delete {checkpoint} to go on from the checkpoint before"
        )
    found = hash_files(checkpoint)
    if altered := sorted(name for name, digest in sealed.items() if found[name] != digest):
        return f"was altered ({', '.join(altered)})"
    return None


def _check_world(checkpoint: Path, world_size: int) -> None:
    written_by = json.loads((checkpoint / MARKER).read_text())["world_size"]
    if written_by != world_size:
        raise CheckRefused(
            f"{checkpoint} was written by {written_by} processes, this run has {world_size}: batches and random "
            f"numbers would differ; start {written_by} processes, or delete {checkpoint.parent} to start afresh"
        )
