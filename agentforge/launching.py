"""Start a training's processes, one for each device, and watch them: what torchrun does, with three differences.

A signal is passed on once, to every process: torchrun passes a terminal's Ctrl-C on a second time, which a process
takes for "at once", and kills thirty seconds later, in the middle of a checkpoint. The exit code is that of the process
that ended first, where torchrun has 1 for all. And nothing is left behind: if the launcher dies, its processes end.

Imports no torch: it waits beside the training, and starts it without delay.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from agentforge.errors import UserError

# The write end is the launcher's; its processes read from it until it closes, which it does when the launcher is gone.
PIPE = "AGENTFORGE_LAUNCHER_PIPE"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds that the others get when one process has failed, to end for the same reason: one that refused to go on or
# was asked to stop, and one that crashed, for which they may wait for ever.
AFTER_REFUSAL, AFTER_CRASH, LAST_WORDS = 60.0, 5.0, 5.0
ORDERLY = (2, 3, 75)  # exit codes of `agentforge.errors`
SHOWN_LINES = 40


@dataclass(frozen=True)
class Node:
    """This machine among those that train together.

    Attributes:
        rank: 0 for the one at whose address all processes meet.
        host, port: that address.
    """

    rank: int
    host: str
    port: int

    @classmethod
    def parse(cls, rank: int, rendezvous: str, nodes: int) -> Node:
        """Return the node of ``HOST:PORT``.

        Raises:
            UserError: there is no such node, or it is no address.
        """
        host, _, port = rendezvous.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(f"--rendezvous is '{rendezvous}'; it must be HOST:PORT, the same on every node")
        if not 0 <= rank < nodes:
            raise UserError(f"--node-rank is {rank}, but the hardware has {nodes} node(s): 0 to {nodes - 1}")
        return cls(rank, host, int(port))


def is_launched() -> bool:
    """Tell whether a launcher has started this process: ours, torchrun, accelerate or the like."""
    # accelerate gives no rank to a process that it starts alone
    return ("RANK" in os.environ and "WORLD_SIZE" in os.environ) or "ACCELERATE_MIXED_PRECISION" in os.environ


def is_ours() -> bool:
    """Tell whether the launcher of this file has started this process."""
    return PIPE in os.environ


def launch(command: Sequence[str], processes: int, node: Node | None = None, nodes: int = 1) -> int:
    """Run a command in several processes and wait for all of them.

    Args:
        command: program and arguments, the same for each; ``RANK``, ``WORLD_SIZE`` and so on tell them apart.
        processes: on this machine.
        node: this machine; None: there is no other.
        nodes: how many machines there are.

    Returns:
        0 if all ended so, else the exit code of the one that failed first; 128 + N if signal N killed it.
    """
    node = node or Node(0, "127.0.0.1", _free_port())
    watched, held = os.pipe()
    try:
        with tempfile.TemporaryDirectory(prefix="agentforge-launch-") as logs:
            group = _Group(Path(logs))
            with _signals_to(group):
                for local in range(processes):
                    group.start(command, _environment(node, nodes, processes, local, watched), local, watched)
                os.close(watched)
                watched = -1
                return group.wait()
    finally:
        for end in (watched, held):
            if end >= 0:
                os.close(end)


def follow_launcher() -> None:
    """End this process if its launcher dies, however it dies; without our launcher, do nothing."""
    if (end := os.environ.get(PIPE)) is None:
        return

    def wait() -> None:
        try:
            os.read(int(end), 1)  # nobody writes: it returns when the last writer is gone
        except OSError:  # we are a process of a process, and the pipe is not ours
            return
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _environment(node: Node, nodes: int, processes: int, local: int, watched: int) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = {
        "RANK": node.rank * processes + local,
        "LOCAL_RANK": local,
        "GROUP_RANK": node.rank,
        "WORLD_SIZE": processes * nodes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": node.host,
        "MASTER_PORT": node.port,
        PIPE: watched,
        # DeepSpeed compiles kernels at its first start, and looks there for the ninja that pip installed beside it.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    # Each process would otherwise start a thread for every core.
    threads = {"OMP_NUM_THREADS": str(max(1, cores // processes))}
    return threads | os.environ | {name: str(value) for name, value in own.items()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class _Group:
    """The processes of this machine."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: list[subprocess.Popen[bytes]] = []
        self._signalled = 0
        self._ended: set[int] = set()  # by us, because another one had failed

    def start(self, command: Sequence[str], environment: dict[str, str], local: int, watched: int) -> None:
        # The first process speaks for all; what the others say is shown if they fail.
        with contextlib.ExitStack() as opened:
            quiet = {} if local == 0 else {"stdout": opened.enter_context(self._log(local).open("wb"))}
            if quiet:
                quiet["stderr"] = quiet["stdout"]
            self._processes.append(
                subprocess.Popen(
                    list(command),
                    env=environment,
                    pass_fds=(watched,),
                    # out of the terminal's reach: its Ctrl-C comes from us, once
                    start_new_session=True,
                    **quiet,  # type: ignore[call-overload]
                )
            )

    def pass_on(self, number: int) -> None:
        """Send a signal to all: the first asks to stop after the step, the second at once, the third waits for none."""
        self._signalled += 1
        self._send(signal.SIGKILL if self._signalled > 2 else signal.SIGTERM)

    def _send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def wait(self) -> int:
        """Wait for all; where one fails, end the others too."""
        failed: int | None = None
        deadline, killing = float("inf"), False
        while any(process.poll() is None for process in self._processes):
            if failed is None and (failed := self._first_failure()) is not None:
                orderly = self._processes[failed].returncode in ORDERLY
                deadline = time.monotonic() + (AFTER_REFUSAL if orderly else AFTER_CRASH)
            if time.monotonic() > deadline:
                self._ended |= {i for i, process in enumerate(self._processes) if process.poll() is None}
                self._send(signal.SIGKILL if killing else signal.SIGTERM)
                deadline, killing = time.monotonic() + LAST_WORDS, True
            time.sleep(0.05)
        failed = self._first_failure() if failed is None else failed
        if failed is None:
            return 0
        code = self._processes[failed].returncode
        self._tell(failed)
        return code if code > 0 else 128 - code

    def _first_failure(self) -> int | None:
        return next((i for i, process in enumerate(self._processes) if process.poll() not in (None, 0)), None)

    def _tell(self, failed: int) -> None:
        """Print what the processes cannot have said themselves."""
        code = self._processes[failed].returncode
        if code < 0 and not self._signalled:
            print(
                f"agentforge: process {failed} was killed by {signal.Signals(-code).name}, and the others were "
                "stopped; run the same command again to continue from the newest checkpoint",
                file=sys.stderr,
                flush=True,
            )
        first = self._processes[0].returncode
        for local, process in enumerate(self._processes):
            if local == 0 or local in self._ended or process.returncode == 0:
                continue
            if process.returncode == first and first in ORDERLY:  # for one reason, which the first has given
                continue
            lines = self._log(local).read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
            for line in lines:
                print(f"[process {local}] {line}", file=sys.stderr, flush=True)

    def _log(self, local: int) -> Path:
        return self._logs / f"{local}.log"


@contextlib.contextmanager
def _signals_to(group: _Group) -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        group.pass_on(number)

    # A signal that the parent process has switched off (``nohup``) stays off.
    mine = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in mine}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
