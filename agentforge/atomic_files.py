"""Files that are the old ones or the new ones, never half of either."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; at the end it becomes ``path``, and on an error nothing does.

    A reader, and a run after a crash, find the old file or the new one, never half of it. The rename alone does not
    give that: after a power cut a name may be on disk before its bytes, so the bytes are flushed first.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(candidates: Iterable[Path]) -> None:
    """Delete those of the files that a killed process has left half written; nobody may be writing them now."""
    for path in candidates:
        if path.name.startswith(".") and path.suffix[1:].isdigit() and path.is_file():
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file of our own; None if something else is in it."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not even text
        return None
    return loaded if isinstance(loaded, dict) else None
