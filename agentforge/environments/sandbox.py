"""Run a command that a model wrote: in its own directory, with limits, without network and without the host's files.

Linux only. It needs user namespaces and nothing else (no bubblewrap, no Docker, no root). Where they are forbidden the
sandbox refuses to run anything, unless it is told to run without isolation.

It holds back mistakes and ordinary malice. The kernel is shared, so it is no defence against kernel exploits: for
hostile code use a virtual machine.
"""

from __future__ import annotations

import json
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from agentforge.errors import CheckRefused

LAUNCHER = Path(__file__).with_name("sandbox_launcher.py")
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SETTINGS = ("alternatives", "ld.so.cache", "localtime", "nsswitch.conf", "passwd", "group", "mime.types")
READONLY = (*PROGRAMS, *(f"/etc/{name}" for name in SETTINGS))
PYTHON = getattr(sys, "_base_executable", sys.executable)  # of the installation, not of a virtual environment
INTERPRETER = tuple(f"{sys.base_prefix}/{name}" for name in ("bin", "lib") if not sys.base_prefix.startswith(PROGRAMS))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NOBODY = 65534
TIMEOUT = 30.0
"""Seconds of wall time."""
KILL_SECONDS = 10.0


@dataclass(frozen=True)
class Limits:
    """What one command may use.

    Attributes:
        cpu_seconds: CPU time of each process.
        memory: bytes of address space of each process.
        file_size: bytes of each file.
        processes: how many at one time.
        open_files: of each process.
        output: bytes kept of each of stdout and stderr; the rest is read and dropped.
    """

    cpu_seconds: int = 30
    memory: int = 1 << 30
    file_size: int = 64 << 20
    processes: int = 64
    open_files: int = 256
    output: int = 64 << 10

    def rlimits(self) -> dict[str, int]:
        """Return them as the resource module names them."""
        return {
            "RLIMIT_CPU": self.cpu_seconds,
            "RLIMIT_AS": self.memory,
            "RLIMIT_FSIZE": self.file_size,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
        }


PROGRAM_LIMITS = Limits(cpu_seconds=10, memory=512 << 20, file_size=16 << 20, processes=16, output=1 << 20)
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
    """

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool
    truncated: bool
    isolated: bool
    seconds: float


class Sandbox:
    """A working directory that lives as long as the object; commands run in it one after another.

    Args:
        files: relative path to text, written before the first command.
        limits: of each command.
        allow_unisolated: run even where the network and the host's files cannot be hidden.

    Raises:
        CheckRefused: isolation is not possible here and `allow_unisolated` is not set.
    """

    def __init__(
        self, files: Mapping[str, str] | None = None, limits: Limits | None = None, allow_unisolated: bool = False
    ) -> None:
        problem = isolation_problem()
        if problem is not None and not allow_unisolated:
            raise CheckRefused(
                f"the sandbox cannot be isolated on this machine ({problem}), so a command could reach the network and "
                "your files; allow user namespaces, or ask for tools without isolation"
            )
        self.isolated = problem is None
        self.limits = limits or Limits()
        self.directory = Path(tempfile.mkdtemp(prefix="sandbox-"))
        for name, text in (files or {}).items():
            self.write(name, text)
        if os.getuid() == 0:
            for path in (self.directory, *self.directory.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete the working directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def write(self, name: str, text: str) -> None:
        """Write a file into the working directory.

        Raises:
            ValueError: the path leads out of it.
        """
        path = self.directory / name
        if not path.resolve().is_relative_to(self.directory.resolve()):
            raise ValueError(f"the file '{name}' lies outside of the sandbox")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, command: str, timeout: float = TIMEOUT, stdin: str = "") -> SandboxResult:
        """Run a bash command line; after ``timeout`` seconds all its processes are killed."""
        result, problem = _execute(command, self.directory, self.limits, timeout, self.isolated, stdin)
        if problem is not None:
            raise RuntimeError(f"the sandbox could not be set up: {problem}")
        return result


def run_command(
    command: str,
    *,
    files: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    limits: Limits | None = None,
    allow_unisolated: bool = False,
) -> SandboxResult:
    """Run one bash command line in a sandbox of its own; see `Sandbox`."""
    with Sandbox(files, limits, allow_unisolated) as sandbox:
        return sandbox.run(command, timeout)


def run_program(
    source: str,
    stdin: str = "",
    timeout: float = 10.0,
    limits: Limits | None = None,
    allow_unisolated: bool = False,
) -> SandboxResult:
    """Run a Python program of the standard library in a sandbox of its own.

    Args:
        source: the program; it runs as ``__main__`` in an empty directory.
        stdin: what it reads; then its input ends.
        timeout: seconds of wall time.
        limits: default: `PROGRAM_LIMITS`.
        allow_unisolated: see `Sandbox`.

    Raises:
        CheckRefused: see `Sandbox`.
    """
    with Sandbox({"main.py": source}, limits or PROGRAM_LIMITS, allow_unisolated) as sandbox:
        return sandbox.run(f"exec {shlex.quote(PYTHON)} -I -S main.py", timeout, stdin)


@cache
def isolation_problem() -> str | None:
    """Return why commands cannot be isolated here, None if they can. Found out by isolating one."""
    if sys.platform != "linux":
        return f"{sys.platform} has no user namespaces"
    directory = Path(tempfile.mkdtemp(prefix="sandbox-"))
    try:
        if os.getuid() == 0:
            os.chown(directory, NOBODY, NOBODY)
        result, problem = _execute("true", directory, Limits(), TIMEOUT, isolated=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return problem or (None if result.exit_code == 0 else f"bash ended with {result.exit_code}: {result.stderr}")


def isolation() -> str:
    """Return in one sentence what a command is kept from on this machine."""
    problem = isolation_problem()
    if problem is None:
        return (
            "isolated: no network, no host processes, programs and libraries read-only, no other host files; "
            "memory is limited for each process, not in total, and the kernel is shared"
        )
    return f"NOT isolated ({problem}): commands see the network and every file that {_user()} may read"


def _user() -> str:
    return "nobody" if os.getuid() == 0 else "this user"


def _execute(
    command: str, directory: Path, limits: Limits, timeout: float, isolated: bool, stdin: str = ""
) -> tuple[SandboxResult, str | None]:
    """Run the launcher; returns what the command did and why the set-up failed, if it did."""
    status_read, status_write = os.pipe()
    job = {
        "command": command,
        "workdir": str(directory),
        "environment": {"PATH": PATH, "LANG": "C.UTF-8", "TERM": "dumb", "USER": "agent", "SHELL": "/bin/bash"},
        "limits": limits.rlimits(),
        "isolate": isolated,
        "readonly": (*READONLY, *INTERPRETER),
        "status_fd": status_write,
    }
    started = time.monotonic()
    with open(status_read, "rb") as status, tempfile.TemporaryFile() as given:
        given.write(stdin.encode("utf-8", errors="surrogateescape"))
        given.seek(0)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(job)],
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[status_write],
                start_new_session=True,
                env={},
            )
        finally:
            os.close(status_write)
        with process:
            try:
                outputs, timed_out, truncated = _collect(process, started + timeout, limits.output)
            finally:
                _kill(process, isolated)
        problem = status.read().decode() or None
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    stdout, stderr = (output.decode("utf-8", errors="replace") for output in outputs)
    return SandboxResult(code, stdout, stderr, timed_out, truncated, isolated, time.monotonic() - started), problem


def _collect(process: subprocess.Popen[bytes], deadline: float, keep: int) -> tuple[list[bytes], bool, bool]:
    """Read both outputs and wait for the process, until the deadline; return outputs, timed out, truncated."""
    outputs: dict[IO[bytes], bytearray] = {}
    truncated = False
    with selectors.DefaultSelector() as selector:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            outputs[stream] = bytearray()
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            ready = selector.select(min(left, 0.1))
            for key, _ in ready:
                stream = cast("IO[bytes]", key.fileobj)
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(stream)
                kept = outputs[stream]
                truncated = truncated or len(kept) + len(data) > keep
                kept.extend(data[: max(0, keep - len(kept))])
            if not ready and process.poll() is not None:
                break
    timed_out = not _ends(process, max(0.05, deadline - time.monotonic()))  # its outputs may be closed before its end
    return [bytes(output) for output in outputs.values()], timed_out, truncated


def _kill(process: subprocess.Popen[bytes], isolated: bool) -> None:
    """End every process of the command.

    An isolated launcher kills its namespace and ends when the kernel has emptied it: none is left, wherever it hid.
    Otherwise the group is killed, which a process that made itself another group survives.
    """
    if isolated:
        process.terminate()
        _ends(process, KILL_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None
