"""The trainer's side of the zygotes: start them, give each one case at a time, collect what a case writes.

The life of a warm case, which takes some ten milliseconds:

1. A thread of the trainer borrows an idle zygote from the `Pool`, or starts one, or waits. A zygote is a Python that
   has imported what programs use most, has walled itself in, and waits at a socket. It does nothing else, ever.
2. The thread writes the job (program, limits, files) and the input into two files in memory, seals them, and sends
   their descriptors over the socket, together with the writing ends of three pipes: stdout, stderr, status.
3. The zygote clones a *keeper* into new namespaces. It does not read what it was sent, so the next case is forked from
   a memory that has never seen this one.
4. The keeper is process 1 in there. It mounts an empty /tmp and working directory, reads the job, and forks the case.
5. The case gives up every privilege, sets its limits and its filter, and becomes bash, or runs the program in the
   interpreter that it already is. That is what makes it fast: nothing is executed, no Python starts.
6. Meanwhile the thread reads the pipes, keeps what fits and drops the rest. If time is up it sends ``k``, and the
   zygote kills the keeper. The keeper looks every 50 ms at how much memory all its processes hold, and kills them all
   if it is too much.
7. The case ends, then the keeper, and with process 1 the kernel kills whatever is left in there and frees both
   directories. The zygote reports the exit code that the kernel has given it. Nothing that a case wrote is believed.
8. The thread puts the zygote back. Had anything gone wrong, it would have ended it, and the next would get a new one.

See `launcher` for the other side and the protocol.
"""

from __future__ import annotations

import atexit
import fcntl
import io
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

LAUNCHER = Path(__file__).with_name("launcher.py")
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Settings without which programs behave oddly: which program `awk` is, users' names, the time zone
SETTINGS = ("alternatives", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "group", "mime.types")
PYTHON = getattr(sys, "_base_executable", sys.executable)  # of the installation, not of a virtual environment
INTERPRETER = tuple(
    f"{sys.base_prefix}/{name}"
    for name in ("bin", "lib")
    if not any(Path(sys.base_prefix).is_relative_to(shown) for shown in PROGRAMS)
)
READONLY = (*PROGRAMS, *(f"/etc/{name}" for name in SETTINGS), *INTERPRETER)
# A fixed hash seed: the order of a set of strings is part of what a program prints.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "USER": "agent",
    "SHELL": "/bin/bash",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
START_SECONDS = 30.0
KILL_SECONDS = 10.0  # from a kill to the end of a case: the kernel may have many processes to end
DRAIN_SECONDS = 1.0  # from the end of a case to the end of its pipes


class CaseOutcome(NamedTuple):
    """What a case did; `status` is what the launcher has written beside its outputs."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    timed_out: bool
    truncated: bool
    status: str


class ZygoteFailed(Exception):
    """A zygote could not be started, or does not answer any more."""


class Zygote:
    """One waiting Python; `run` forks a case off it. Used by one thread at a time.

    Args:
        isolate: give it namespaces of its own; otherwise cases see the host.
        persistent: the working directory lasts from case to case.
        disk: bytes of a lasting working directory.

    Raises:
        ZygoteFailed: with the reason.
    """

    def __init__(self, isolate: bool = True, persistent: bool = False, disk: int = 64 << 20) -> None:
        self._control, theirs = socket.socketpair()
        self.workdir = None if isolate else tempfile.mkdtemp(prefix="sandbox-")
        setup = {
            "control": theirs.fileno(),
            "isolate": isolate,
            "readonly": READONLY,
            "persistent": persistent,
            "disk": disk,
            "workdir": self.workdir,
        }
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._command(setup),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env=ENVIRONMENT,
                )
            except OSError as error:
                self._control.close()
                self._remove_workdir()
                raise ZygoteFailed(f"it cannot be started ({error})") from None
        self._ready = False

    def wait(self) -> None:
        """Wait until it is ready."""
        if self._ready:
            return
        self._control.settimeout(START_SECONDS)
        try:
            answer = self._control.recv(4096).decode()
        except TimeoutError:
            answer = "it does not answer"
        if answer != "r":
            self.close()
            raise ZygoteFailed(answer.removeprefix("e") or "it has ended at once")
        self._ready = True

    def run(self, job: dict[str, Any], stdin: bytes, timeout: float, keep: int) -> CaseOutcome:
        """Run one case and wait until no process of it is left.

        Args:
            job: ``files``, ``command`` (none: the file main.py is a program), ``limits``, ``disk``, ``total_memory``.
            timeout: seconds of wall time; then the case is killed.
            keep: bytes of each output; the rest is read and dropped.

        Raises:
            ZygoteFailed: it does not answer; it is closed then.
        """
        self.wait()
        pipes = [os.pipe() for _ in range(3)]
        readers = [io.FileIO(read) for read, _ in pipes]
        given = [_sealed(json.dumps(job).encode()), _sealed(stdin)]
        try:
            try:
                socket.send_fds(self._control, [b"j"], [*given, *(write for _, write in pipes)])
            finally:
                for descriptor in (*given, *(write for _, write in pipes)):
                    os.close(descriptor)
            return self._collect(readers, time.monotonic() + timeout, keep)
        except BaseException as error:
            self.close()  # whatever is still running in it
            if isinstance(error, OSError):
                raise ZygoteFailed(f"it has ended ({error})") from None
            raise
        finally:
            for reader in readers:
                reader.close()

    def _collect(self, readers: list[io.FileIO], deadline: float, keep: int) -> CaseOutcome:
        kept = [_Kept(keep), _Kept(keep), _Kept(1 << 16)]
        timed_out, code = False, -1
        with selectors.DefaultSelector() as selector:
            for reader, output in zip(readers, kept, strict=True):
                selector.register(reader, selectors.EVENT_READ, output)
            selector.register(self._control, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                ready = selector.select(max(0.0, left))
                if not ready and code >= 0:
                    break  # somebody outside of the case holds the pipes: only without isolation
                if left <= 0 and code < 0:
                    if timed_out:
                        raise ZygoteFailed("it could not end a case")
                    timed_out, deadline = True, time.monotonic() + KILL_SECONDS
                    self._control.sendall(b"k")
                for key, _ in ready:
                    if key.fileobj is self._control:
                        code = self._answer()
                        deadline = time.monotonic() + DRAIN_SECONDS
                        selector.unregister(self._control)
                    elif not key.data.add(os.read(key.fd, 1 << 16)):
                        selector.unregister(key.fileobj)
        stdout, stderr, status = (bytes(output.data) for output in kept)
        truncated = kept[0].truncated or kept[1].truncated
        return CaseOutcome(code, stdout, stderr, timed_out, truncated, status.decode(errors="replace"))

    def _answer(self) -> int:
        answer = self._control.recv(2, socket.MSG_WAITALL)
        if len(answer) != 2 or answer[:1] != b"x":
            raise ZygoteFailed("it has died")
        return answer[1]

    def close(self) -> None:
        """End it and all that runs in it."""
        self._control.close()
        try:
            self._process.wait(KILL_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._remove_workdir()

    def _command(self, setup: dict[str, Any]) -> list[str]:
        # Neither the user's site-packages, nor the script's directory (-P), nor any others: `import site` finds nothing
        return [PYTHON, "-s", "-P", "-S", str(LAUNCHER), json.dumps(setup)]

    def _remove_workdir(self) -> None:
        if self.workdir:
            shutil.rmtree(self.workdir, ignore_errors=True)

    def forget(self) -> None:
        """Let go of it without ending it: it belongs to the process that this one was forked from."""
        self._control.close()
        self._process.returncode = 0  # it is no child of this process


class _Kept:
    def __init__(self, most: int) -> None:
        self.most = most
        self.data = bytearray()
        self.truncated = False

    def add(self, data: bytes) -> bool:
        self.truncated = self.truncated or len(self.data) + len(data) > self.most
        self.data.extend(data[: max(0, self.most - len(self.data))])
        return bool(data)


def _sealed(content: bytes) -> int:
    """Return a file in memory that nobody can change, grow or shrink, at its beginning."""
    descriptor = os.memfd_create("case", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class Pool:
    """Zygotes for cases that share nothing: as many as there are cores, each started when it is first needed.

    Args:
        size: zygotes at most; a caller that finds none idle waits.
    """

    def __init__(self, isolate: bool, size: int | None = None) -> None:
        self.isolate = isolate
        self.size = size or len(os.sched_getaffinity(0))
        self._idle: list[Zygote] = []
        self._all: set[Zygote] = set()
        self._free = threading.Condition()

    @contextmanager
    def borrow(self) -> Iterator[Zygote]:
        """A zygote for this thread alone; one that has failed is not put back."""
        with self._free:
            while not self._idle and len(self._all) >= self.size:
                self._free.wait()
            zygote = self._idle.pop() if self._idle else Zygote(self.isolate)
            self._all.add(zygote)
        healthy = False
        try:
            yield zygote
            healthy = True
        finally:
            with self._free:
                if healthy:
                    self._idle.append(zygote)
                else:
                    self._all.discard(zygote)
                    zygote.close()
                self._free.notify()

    def close(self) -> None:
        """End all zygotes."""
        while self._all:
            self._all.pop().close()
        self._idle.clear()

    def forget(self) -> None:
        """After a fork: the zygotes are the parent's."""
        for zygote in self._all:
            zygote.forget()
        self._idle.clear()
        self._all.clear()
        self._free = threading.Condition()


_pools: dict[bool, Pool] = {}
_lock = threading.Lock()


def pool(isolate: bool) -> Pool:
    """Return this process's pool."""
    with _lock:
        return _pools.setdefault(isolate, Pool(isolate))


def _close_all() -> None:
    for made in _pools.values():
        made.close()


def _forget_all() -> None:
    global _lock
    _lock = threading.Lock()
    for made in _pools.values():
        made.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
