"""The same ordered map on the machines of a Ray cluster, which get chunks and send back results.

Reading and joining stay in this process. So what one machine has read need not be on the others' disks, and the result
is the same to the byte. Ray works on a chunk again whose machine is lost.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from agentforge.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


def ray_map(worker: Callable[[Task], Result], tasks: Iterable[Task], address: str) -> Iterator[Result]:
    """Yield ``worker(task)`` for each task, in order, with at most two tasks a core of the cluster under way.

    Args:
        worker: a pure callable; it is sent to each machine once.
        tasks: read lazily, in this process.
        address: of the cluster (``auto``: the one that this machine belongs to), or ``local``: one of this machine's.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    ray = connected(address)
    cores = int(ray.cluster_resources().get("CPU", 1))
    shared = ray.put(worker)
    work = ray.remote(_call)
    pending: deque[Any] = deque()
    for task in tasks:
        pending.append(work.remote([shared], task))  # in a list, Ray leaves it a reference
        if len(pending) >= 2 * cores:
            yield ray.get(pending.popleft())
    while pending:
        yield ray.get(pending.popleft())


def connected(address: str) -> Any:
    """Return the module `ray`, connected to a cluster.

    Raises:
        UserError: it is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            f"data.ray is {address}, but Ray is not installed; pip install 'agentforge-train[ray]' on each machine"
        ) from None
    if ray.is_initialized():
        return ray
    try:
        ray.init(None if address == "local" else address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"data.ray: there is no Ray cluster at {address} ({error}); start one (ray start --head), or take data.ray "
            "out of the recipe"
        ) from None
    log.info("on a Ray cluster of %d machines and %d cores", len(ray.nodes()), ray.cluster_resources().get("CPU", 0))
    return ray


_workers: dict[str, Callable[[Any], Any]] = {}
"""What a process of the cluster has unpacked: a tokenizer takes longer to unpack than a chunk to be tokenised."""


def _call(shared: list[Any], task: Any) -> Any:
    import ray

    key = shared[0].hex()
    if key not in _workers:
        _workers.clear()
        _workers[key] = ray.get(shared[0])
    return _workers[key](task)
