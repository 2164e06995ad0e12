"""Run what a model wrote, a command or a Python program: with limits, without network and without the host's files.

Linux only. It needs user namespaces and nothing else (no bubblewrap, no Docker, no root). Where they are forbidden the
sandbox refuses to run anything, unless it is told to run without isolation.

It holds back mistakes and ordinary malice. The kernel is shared, so it is no defence against kernel exploits: for
hostile code use a virtual machine. docs/sandbox.md says what is contained and what is not.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from agentforge.environments.sandbox.input import checked_command, encoded
from agentforge.environments.sandbox.kernel import NOBODY
from agentforge.environments.sandbox.pool import CaseOutcome, Zygote, ZygoteFailed, pool
from agentforge.errors import CheckRefused

log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds of wall time."""


@dataclass(frozen=True)
class Limits:
    """What one command may use.

    Attributes:
        cpu_seconds: CPU time of each process.
        memory: bytes of address space of each process.
        total_memory: bytes that all its processes hold together, in pages, files, pipes and sockets
            (`memory`); looked at every 50 ms, so a burst may be over it. Not held without isolation.
        file_size: bytes of each file.
        disk: bytes of all files in the working directory, and as many again in /tmp; both are memory. Not held
            without isolation.
        processes: how many at one time.
        open_files: of each process.
        output: bytes kept of each of stdout and stderr; the rest is read and dropped.
    """

    cpu_seconds: int = 30
    memory: int = 1 << 30
    total_memory: int = 2 << 30
    file_size: int = 64 << 20
    disk: int = 64 << 20
    processes: int = 64
    open_files: int = 256
    output: int = 64 << 10

    def rlimits(self) -> dict[str, int]:
        """Return those that are rlimits, as the resource module names them."""
        return {
            "RLIMIT_CPU": self.cpu_seconds,  # a second bound besides wall time: it holds when the trainer is stopped
            "RLIMIT_AS": self.memory,  # mapped, not resident: a program gets a MemoryError instead of being killed
            "RLIMIT_FSIZE": self.file_size,
            "RLIMIT_NPROC": self.processes + OWN_PROCESSES,  # of the case alone: its user namespace has its own count
            "RLIMIT_NOFILE": self.open_files,  # bounds the pipes and sockets too
            "RLIMIT_MSGQUEUE": 0,  # bytes of POSIX message queues, which are memory of no process
            "RLIMIT_CORE": 1,  # not 0: that holds back files, this also a program of the host that takes crashes
        }


OWN_PROCESSES = 1
"""The launcher's, in the namespace in which a case's are counted."""

PROGRAM_LIMITS = Limits(
    cpu_seconds=10,
    memory=512 << 20,
    total_memory=640 << 20,
    file_size=16 << 20,
    disk=32 << 20,
    processes=16,
    output=1 << 20,
)
"""Of `run_program`."""


@dataclass(frozen=True)
class SandboxResult:
    """What a command did.

    Attributes:
        exit_code: 128 + n if signal n ended it.
        timed_out: it was killed when its time was up.
        truncated: more was written than is kept.
        isolated: it had neither the network nor the host's files.
        seconds: wall time.
        out_of_memory: it was killed because all its processes together held too much.
    """

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool
    truncated: bool
    isolated: bool
    seconds: float
    out_of_memory: bool = False


class SandboxFailed(RuntimeError):
    """The sandbox itself broke; nothing is known about what was run."""


class Sandbox:
    """A working directory that lives as long as the object; commands run in it one after another.

    Args:
        files: relative path to text, written before the first command.
        limits: of each command.
        allow_unisolated: run even where the network and the host's files cannot be hidden.

    Raises:
        CheckRefused: isolation is not possible here and `allow_unisolated` is not set.
        ValueError: a file's path leads out of the directory, or it cannot be written.
    """

    def __init__(
        self, files: Mapping[str, str] | None = None, limits: Limits | None = None, allow_unisolated: bool = False
    ) -> None:
        self.isolated = _may_run(allow_unisolated)
        self.limits = limits or Limits()
        self._zygote = Zygote(self.isolated, persistent=True, disk=self.limits.disk)
        try:
            self.write_files(files or {})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the working directory and end what runs in it."""
        self._zygote.close()

    def write(self, name: str, text: str) -> None:
        """Write a file into the working directory.

        Raises:
            ValueError: the path leads out of it, or the file cannot be written.
        """
        self.write_files({name: text})

    def write_files(self, files: Mapping[str, str]) -> None:
        """Write several; see `write`."""
        if files:
            _run(self._zygote, _job("exit 0", self.limits, files), "", TIMEOUT, self.limits, self.isolated)

    def run(self, command: str, timeout: float = TIMEOUT, stdin: str = "") -> SandboxResult:
        """Run a bash command line; after ``timeout`` seconds all its processes are killed.

        Raises:
            SandboxFailed: it is closed or broken.
            ValueError: no process can be given that command or input, with the reason.
        """
        return _run(
            self._zygote, _job(checked_command(command), self.limits), stdin, timeout, self.limits, self.isolated
        )


def run_command(
    command: str,
    *,
    files: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    limits: Limits | None = None,
    allow_unisolated: bool = False,
) -> SandboxResult:
    """Run one bash command line in a sandbox of its own; see `Sandbox`."""
    limits = limits or Limits()
    return _once(_job(checked_command(command), limits, files), "", timeout, limits, allow_unisolated)


def run_program(
    source: str,
    stdin: str = "",
    timeout: float = 10.0,
    limits: Limits | None = None,
    allow_unisolated: bool = False,
) -> SandboxResult:
    """Run a Python program of the standard library in a sandbox of its own.

    It runs as ``python main.py`` does, but forked off a waiting interpreter of the same version, and the hashes of
    strings are always the same.

    Args:
        source: the program; it lies as main.py in its working directory.
        stdin: what it reads; then its input ends.
        timeout: seconds of wall time.
        limits: default: `PROGRAM_LIMITS`.
        allow_unisolated: see `Sandbox`.

    Raises:
        CheckRefused: see `Sandbox`.
        SandboxFailed: it was set up twice in vain.
        ValueError: the program or its input cannot be written, with the reason.
    """
    limits = limits or PROGRAM_LIMITS
    return _once(_job(None, limits, {"main.py": source}), stdin, timeout, limits, allow_unisolated)


@cache
def isolation_problem() -> str | None:
    """Return why commands cannot be isolated here, None if they can. Found out by isolating one."""
    if sys.platform != "linux":
        return f"{sys.platform} has no user namespaces"
    try:
        with pool(True).borrow() as zygote:
            outcome = zygote.run(_job("true", Limits()), b"", TIMEOUT, 1000)
    except ZygoteFailed as error:
        return str(error)
    if outcome.status.startswith("p"):
        return outcome.status[1:]
    return None if outcome.exit_code == 0 else f"bash ended with {outcome.exit_code}: {outcome.stderr.decode()}"


def isolation() -> str:
    """Return in one sentence what a command is kept from on this machine."""
    problem = isolation_problem()
    if problem is None:
        return (
            "isolated: no network, no host processes, programs and libraries read-only, no other host files; "
            "the kernel is shared"
        )
    user = "nobody" if os.getuid() == 0 and _nobody_exists() else "this user"
    return f"NOT isolated ({problem}): commands see the processes of this machine and every file that {user} may read"


def _nobody_exists() -> bool:
    """Return whether this user namespace has a user *nobody*: one with a single uid (`unshare -r`) has not."""
    spans = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(int(first) <= NOBODY < int(first) + int(count) for first, _, count in spans)


def _may_run(allow_unisolated: bool) -> bool:
    """Return whether cases are isolated here.

    Raises:
        CheckRefused: they are not, and nobody has allowed that.
    """
    problem = isolation_problem()
    if problem is None:
        return True
    if sys.platform != "linux" or not allow_unisolated:
        raise CheckRefused(
            f"the sandbox cannot be isolated on this machine ({problem}), so a command could reach your files and "
            "processes; allow user namespaces, or ask for tools without isolation"
        )
    _warn()
    return False


@cache
def _warn() -> None:
    log.warning("what models write is run %s", isolation())


def _job(command: str | None, limits: Limits, files: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {
        "command": command,
        "files": dict(files or {}),
        "limits": limits.rlimits(),
        "disk": limits.disk,
        "total_memory": limits.total_memory,
    }


def _once(job: dict[str, Any], stdin: str, timeout: float, limits: Limits, allow_unisolated: bool) -> SandboxResult:
    isolated = _may_run(allow_unisolated)
    try:
        with pool(isolated).borrow() as zygote:
            return _run(zygote, job, stdin, timeout, limits, isolated)
    except (
        SandboxFailed
    ):  # killed from outside, as when the machine ran out of memory: a case changes nothing, so again
        with pool(isolated).borrow() as zygote:
            return _run(zygote, job, stdin, timeout, limits, isolated)


def _run(
    zygote: Zygote, job: dict[str, Any], stdin: str, timeout: float, limits: Limits, isolated: bool
) -> SandboxResult:
    given = encoded(stdin, "the input")
    started = time.monotonic()
    try:
        outcome = zygote.run(job, given, timeout, limits.output)
    except ZygoteFailed as error:
        raise SandboxFailed(f"the sandbox has failed: {error}") from error
    return _result(outcome, isolated, time.monotonic() - started)


def _result(outcome: CaseOutcome, isolated: bool, seconds: float) -> SandboxResult:
    if outcome.status.startswith("f"):
        raise ValueError(outcome.status[1:])
    if outcome.status.startswith("p"):
        raise SandboxFailed(f"the sandbox could not be set up: {outcome.status[1:]}")
    return SandboxResult(
        outcome.exit_code,
        outcome.stdout.decode("utf-8", errors="replace"),
        outcome.stderr.decode("utf-8", errors="replace"),
        outcome.timed_out,
        outcome.truncated,
        isolated,
        seconds,
        out_of_memory=outcome.status.startswith("m"),
    )
