"""Ordered, bounded parallel map: results come in the order of the tasks, whatever the number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from agentforge.recipe.hardware import available_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

_worker: Callable[[Any], Any]


def default_workers() -> int:
    """One process per core that this process may use."""
    return available_cores()


def ordered_map(worker: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Yield ``worker(task)`` for each task, in order, with at most ``2 * workers`` tasks under way.

    Args:
        worker: a pure callable; forked processes inherit it, so only tasks and results are pickled.
        tasks: read lazily, in this process.
        workers: processes; 1 runs everything here.
    """
    if workers == 1:
        yield from map(worker, tasks)
        return
    with _pool(worker, workers) as pool:
        pending: deque[Future[Result]] = deque()
        for task in tasks:
            pending.append(pool.submit(_call, task))
            # Two tasks a worker, so that none is idle while the caller uses a result; more would only fill the memory
            # with results.
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def _pool(worker: Callable[[Any], Any], workers: int) -> Iterator[ProcessPoolExecutor]:
    # The children hold only the reading end: it ends when this process dies, however it dies, and they die with it.
    # Otherwise a killed run would leave processes that hold the artefact's lock.
    alive, mine = os.pipe()
    # With fork, a worker that holds a tokenizer or a large set of hashes is inherited; spawn would pickle it for each
    # child.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(worker, alive, mine))
    try:
        yield pool
    finally:
        # After an error or a signal too the workers end their chunks, a second or two. Killed while they send a result,
        # they would leave the pool's thread waiting for the rest of it for ever.
        pool.shutdown(cancel_futures=True)
        os.close(alive)
        os.close(mine)


def _start(worker: Callable[[Any], Any], alive: int, parents_end: int) -> None:
    global _worker
    _worker = worker
    os.close(parents_end)
    # The pool has a process for every core already: threads of the tokenizers library would only compete.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # A terminal signals the whole process group. Only the parent acts on it, and ends its workers.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(alive,), daemon=True).start()


def _die_with_parent(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)


def _call(task: Any) -> Any:
    return _worker(task)
