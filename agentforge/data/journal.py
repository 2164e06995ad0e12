"""What a stopped `prepare` had worked out: the results of its chunks, in order, to be read back instead of made again.

Reading the raw rows is cheap and is done again, which counts them; cleaning, signing and tokenising are not. A frame
that was cut by a kill has another hash than its own and ends the journal.
"""

from __future__ import annotations

import pickle
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import xxhash

Task = TypeVar("Task")
Result = TypeVar("Result")

HEADER = struct.Struct("<QQd")  # bytes and hash of a frame, and when it was written


def journaled(
    map_: Callable[[Iterable[Task]], Iterator[Result]], tasks: Iterable[Task], journal: Path
) -> Iterator[Result]:
    """Yield the results of a map: those that the journal has, then those that are still to be worked out.

    Args:
        map_: an ordered map; its results must depend on the tasks alone.
        tasks: the same in each run. Those whose results are known are read and dropped.
        journal: made by this process, or by a stopped one with the same tasks; every result is written to it. It is a
            pickle, and never leaves the directory that is being made.
    """
    remaining = iter(tasks)
    whole = 0
    for result, whole in _frames(journal):  # noqa: B007  its last value is used below
        next(remaining, None)
        yield result
    with journal.open("ab") as file:
        file.truncate(whole)
        for result in map_(remaining):
            frame = pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL)
            file.write(HEADER.pack(len(frame), xxhash.xxh3_64_intdigest(frame), time.time()))
            file.write(frame)
            file.flush()
            yield result


def lasted(journal: Path) -> float:
    """Return the seconds between the first result of a journal and the last."""
    times = list(_times(journal))
    return times[-1] - times[0] if times else 0.0


def _frames(journal: Path) -> Iterator[tuple[Any, int]]:
    """Yield each whole result and the place of its end."""
    if not journal.is_file():
        return
    size = journal.stat().st_size
    with journal.open("rb") as file:
        while len(header := file.read(HEADER.size)) == HEADER.size:
            length, digest, _ = HEADER.unpack(header)
            if file.tell() + length > size:  # cut; or the length itself is damaged, and no memory holds so much
                return
            frame = file.read(length)
            if xxhash.xxh3_64_intdigest(frame) != digest:
                return
            yield pickle.loads(frame), file.tell()


def _times(journal: Path) -> Iterator[float]:
    size = journal.stat().st_size
    with journal.open("rb") as file:
        while len(header := file.read(HEADER.size)) == HEADER.size:
            length, _, when = HEADER.unpack(header)
            if file.tell() + length > size:
                return
            file.seek(length, 1)
            yield when
