"""SHA-256 of files and of JSON. A large file is read once per machine, not once per stage that uses it.

What was hashed is remembered in the cache directory by path, size and the times of its last changes. Whoever writes to
the file changes one of these, so its bytes are read again. A disk that decays changes none of them: `agentforge verify`
reads every byte, whatever is remembered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from agentforge.atomic_files import read_object, write_json
from agentforge.cache import cache_directory
from agentforge.recipe.hardware import available_cores

log = logging.getLogger(__name__)

# Smaller files are read faster than what is remembered of them could be looked up for thousands of others.
REMEMBERED_FROM = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the hex SHA-256 of a JSON-able value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_files(directory: Path, leave_out: Iterable[str] = ()) -> dict[str, str]:
    """Return relative path to SHA-256 for every file below ``directory`` but those that are left out; all are read."""
    left_out = {directory / name for name in leave_out}
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path not in left_out)
    return {str(path.relative_to(directory)): digest for path, digest in sha256_of(paths).items()}


def sha256_of(paths: Iterable[Path], *, remembered: bool = False) -> dict[Path, str]:
    """Return the SHA-256 of several files, hashed side by side.

    Args:
        remembered: take what is remembered of files that have not changed since.
    """
    paths = list(paths)
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        return dict(zip(paths, pool.map(known_sha256 if remembered else sha256_file, paths), strict=True))


def known_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as it is now; its bytes are read only if it has changed since they last were."""
    return known(path, "sha256", sha256_file)


Found = TypeVar("Found")


def known(path: Path, kind: str, compute: Callable[[Path], Found]) -> Found:
    """Return what is computed from a file's bytes, or what is remembered of it if the file has not changed since.

    Args:
        path: the file.
        kind: what is computed, in a word; part of the record's name.
        compute: returns it, as JSON can hold it.
    """
    state = _state(path)
    if state["bytes"] < REMEMBERED_FROM:
        return compute(path)
    place = _place(path, kind)
    record = read_object(place) if place.is_file() else None
    if record is not None and record.get("state") == state and kind in record:
        remembered: Found = record[kind]
        return remembered
    found = compute(path)
    # A file that was written to while it was read gets no record: what was found belongs to neither state.
    if _state(path) == state:
        remember(path, found, kind)
    return found


def remember(path: Path, found: Any, kind: str = "sha256") -> None:
    """Note what a large file's bytes give, for `known`. A cache that cannot be written to costs only time."""
    state = _state(path)
    if state["bytes"] < REMEMBERED_FROM:
        return
    place = _place(path, kind)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"path": str(path.resolve()), "state": state, kind: found})
    except OSError as error:
        log.debug("the hash of %s is not remembered: %s", path, error)


def _state(path: Path) -> dict[str, int]:
    # The time of the inode's change as well: tools that copy and repair files set the other one back.
    found = os.stat(path)
    return {"bytes": found.st_size, "modified": found.st_mtime_ns, "changed": found.st_ctime_ns}


def _place(path: Path, kind: str) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return cache_directory() / "file_hashes" / name[:2] / f"{name[2:]}.{kind}.json"
