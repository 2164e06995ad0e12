"""Who works on the chunks of `prepare`: processes of this machine or a Ray cluster, after what a stopped run left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from agentforge import __version__
from agentforge.data.journal import journaled, lasted
from agentforge.data.parallel_map import default_workers, ordered_map
from agentforge.data.ray_map import ray_map
from agentforge.recipe.schema import Data

Task = TypeVar("Task")
Result = TypeVar("Result")

JOURNALS = ".journal-*"
WORTH = 300.0  # seconds of work that a user would miss


class Executor:
    """Maps a worker over chunks, in order. The results are the same whoever works.

    Args:
        data: its `ray` and `workers` say who.
        directory: that is being made; a stopped run's journals lie there.
        chunking: how rows are cut into chunks: with another, a journal is of no use.
    """

    def __init__(self, data: Data, directory: Path, chunking: str) -> None:
        self._ray, self._workers = data.ray, data.workers or default_workers()
        self._directory, self._chunking = directory, chunking

    def map(
        self, worker: Callable[[Task], Result], tasks: Iterable[Task], step: Literal["read", "tokenise"]
    ) -> Iterator[Result]:
        """Yield ``worker(task)`` for each task, in order."""

        def work(remaining: Iterable[Task]) -> Iterator[Result]:
            if self._ray is not None:
                return ray_map(worker, remaining, self._ray)
            return ordered_map(worker, remaining, self._workers)

        # Another version may have other results, or the same in another form.
        name = JOURNALS.replace("*", f"{step}-{__version__}-{self._chunking}")
        return journaled(work, tasks, self._directory / name)


def worth_keeping(partial: Path) -> bool:
    """Tell whether a user would miss what a stopped run has left: more than five minutes of work."""
    return sum(map(lasted, partial.glob(JOURNALS))) > WORTH


def remove_journals(directory: Path) -> None:
    """Delete what only a stopped run's successor needs."""
    for journal in directory.glob(JOURNALS):
        journal.unlink()
