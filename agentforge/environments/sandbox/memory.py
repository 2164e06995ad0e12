"""How much memory a case holds, as the first process of its namespaces sees it. Linux; standard library only.

The kernel bounds the memory of each process (RLIMIT_AS) but not of all together, and a program can hold memory that is
in no process. Control groups would count everything, but only root or a delegated user may make them. So the filter
(`seccomp`) refuses what cannot be seen from here, and what is left is added up:

    pages      of each process: statm, or smaps_rollup, which shares common pages out among those who have them
    files      of the two tmpfs, also deleted ones that are still open: statvfs
    pipes      64 KiB each, which is all that they take (F_SETPIPE_SZ is refused), full or not
    sockets    twice the default send buffer each, which is all that they take (SO_SNDBUF is refused). The network
               namespace counts them, also those that no descriptor holds: waiting in the backlog of a server, or closed
               with something unread
    locks      64 KiB each, which is much more than they take: of files, byte range by byte range, they have no limit

Not counted: what else the kernel keeps about all that (page tables, inodes). docs/sandbox.md says so.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from agentforge.environments.sandbox.kernel import WORKDIR

PAGE = os.sysconf("SC_PAGESIZE")
PIPE = LOCK = 16 * PAGE


def socket_bytes() -> int:
    """Return what one socket can hold: its send buffer, and as much again for the last message that still went in."""
    with socket.socket(socket.AF_UNIX) as probe:
        return 2 * probe.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def over(most: int, a_socket: int, open_files: int) -> bool:
    """Return whether the other processes of this namespace hold more than ``most`` bytes.

    The first sum is quick and too large: a page counts for each process that has it, and every descriptor as a pipe.
    Only if it is over, the second one is made.

    Args:
        a_socket: bytes that a socket can hold.
        open_files: the limit on descriptors; so many has a process that hides them.
    """
    processes = tasks_of_processes()
    most -= files() + sockets() * a_socket + locks() * LOCK
    if sum(map(resident, processes)) + sum(descriptors(tasks, open_files) for tasks in processes) * PIPE <= most:
        return False
    return sum(map(proportional, processes)) + pipes(processes, open_files) * PIPE > most


def tasks_of_processes() -> list[list[Path]]:
    """Return the directories of each process's threads, without the first process.

    By thread, because a thread may have descriptors of its own, and a process whose first thread has ended shows
    neither pages nor descriptors, though the other threads still hold them.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                found.append([Path("/proc", name, "task", task) for task in os.listdir(f"/proc/{name}/task")])
            except OSError:
                continue  # it has ended
    return found


def count_tasks() -> int:
    """Return how many threads the other processes of this namespace have."""
    return sum(map(len, tasks_of_processes()))


def resident(tasks: list[Path]) -> int:
    """Return the bytes of pages that a process has."""
    return max((int(text.split()[1]) * PAGE for text in _texts(tasks, "statm")), default=0)


def proportional(tasks: list[Path]) -> int:
    """Return its share of the bytes of pages: those of n processes count an n-th each."""
    found = [text.partition("\nPss:")[2].split() for text in _texts(tasks, "smaps_rollup")]
    return max((int(words[0]) << 10 for words in found if words), default=0) or resident(tasks)


def _texts(tasks: list[Path], name: str) -> Iterator[str]:
    for task in tasks:
        try:
            yield (task / name).read_text()
        except OSError:
            continue  # it has ended, or hides itself


def descriptors(tasks: list[Path], hidden: int) -> int:
    """Return how many descriptors a process's threads have; those of threads that share them count for each."""
    return sum(len(_descriptors(task, hidden)) for task in tasks)


def _descriptors(task: Path, hidden: int) -> list[str]:
    try:
        return os.listdir(task / "fd")
    except PermissionError:
        return [""] * hidden
    except OSError:
        return []


def pipes(processes: list[list[Path]], hidden: int) -> int:
    """Return how many pipes and FIFOs the processes have open, each counted once."""
    seen, unseen = set(), 0
    for task in (task for tasks in processes for task in tasks):
        for name in _descriptors(task, hidden):
            if not name:
                unseen += 1
                continue
            try:
                found = os.stat(task / "fd" / name)
            except OSError:
                continue
            if stat.S_ISFIFO(found.st_mode):
                seen.add((found.st_dev, found.st_ino))
    return len(seen) + unseen


def files() -> int:
    """Return the bytes in the case's two tmpfs."""
    total = 0
    for directory in ("/tmp", WORKDIR):
        found = os.statvfs(directory)
        total += (found.f_blocks - found.f_bfree) * found.f_frsize
    return total


def locks() -> int:
    """Return how many locks on parts of files the processes of this PID namespace hold."""
    return Path("/proc/locks").read_text().count(" POSIX ")


def sockets() -> int:
    """Return how many sockets this network namespace has."""
    return int(Path("/proc/net/sockstat").read_text().split()[2])  # sockets: used 7
