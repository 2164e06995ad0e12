"""The sandbox's zygote: a Python that waits in an empty world and forks a child for every case. Run as a script.

    trainer ── outer ── zygote ── keeper ── the case (bash, or a Python program in the forked interpreter)
               └ waits  │         └ a second world within it, for this case alone, with an empty /tmp
                        └ a world of its own (users, mounts, processes, network, IPC): read-only programs, nothing else

The zygote never sees a case: its child, the keeper, reads the job from a file. So nothing of a case is in the memory
that the next one is forked from. It trusts nobody's answer either: a case ends when the kernel says so.

One argument, JSON: ``control`` (a socket), ``isolate``, ``readonly`` (host paths to show), ``persistent`` (the working
directory outlives a case), ``disk`` (bytes), ``workdir`` (only without isolation). On the socket: ``r`` ready, or ``e``
and a sentence; then for each ``j`` with five descriptors (job, stdin, stdout, stderr, status) ``x`` and the exit code.
``k`` ends the running case; the socket's end ends everything. On status: nothing, or ``p`` and why the case could not
be set up, ``f`` and which file may not be written, or ``m`` if it was killed for memory.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[3]))
from agentforge.environments.sandbox import kernel, memory, seccomp
from agentforge.environments.sandbox.program import run

sys.path.pop()

# What programs import most; read once, and forked with the rest. More of them would make every fork dearer.
MODULES = "bisect collections copy datetime functools heapq itertools math operator random re string sys time typing"
LOOK_MILLISECONDS = 50
SHOWN = 200  # characters of a file's name in an error
BASH = ["bash", "--noprofile", "--norc", "-c"]

Job = dict[str, Any]


def isolate(setup: dict[str, Any], control: socket.socket) -> None:
    """Return in a child that lives in a world of its own; the parent waits and never returns.

    A child, because unshare(2) puts only children into the new PID namespace; and the trainer waits for the parent.
    """
    shown = None
    if os.getuid() == 0:
        with contextlib.suppress(OSError):  # root without CAP_SYS_ADMIN is like anyone else
            shown = kernel.take(setup["readonly"])
        with contextlib.suppress(OSError):  # in a user namespace with one uid there is nobody else to be
            kernel.become_nobody()
    setup["ids"] = kernel.enter_namespaces()
    shown = kernel.take(setup["readonly"]) if shown is None else shown
    if zygote := os.fork():
        control.close()
        os._exit(exit_code(os.waitpid(zygote, 0)[1]))
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.change_root(shown)
    if setup["persistent"]:
        kernel.mount_tmpfs(kernel.WORKDIR, setup["disk"])
    setup["count_processes"] = not kernel.binds_processes()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no case may look into the zygote


def serve(setup: dict[str, Any], control: socket.socket) -> Job:
    """Fork a keeper for every job; returns only in the process that is to run a Python program."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # a keeper takes it when it can act on it
    ending = signal.SIGKILL if setup["isolate"] else signal.SIGTERM
    control.sendall(b"r")
    while True:
        kind, descriptors, _, _ = socket.recv_fds(control, 1, 5)
        if not kind:
            os._exit(0)
        if kind == b"k":
            continue  # too late: that case has ended
        keeper = kernel.clone() if setup["isolate"] else os.fork()
        if not keeper:
            control.close()
            try:
                return (begin if setup["isolate"] else keep)(setup, *descriptors)
            except Exception as error:  # whatever it is: the case did not run
                whose = "f" if isinstance(error, ValueError) else "p"
                os.write(descriptors[4], f"{whose}{error}".encode("utf-8", "backslashreplace"))
                os._exit(1)
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(b"x" + bytes([supervise(control, keeper, ending)]))


def supervise(control: socket.socket, keeper: int, ending: signal.Signals) -> int:
    """Wait for a keeper, and end it when the trainer says so or is gone; returns the case's exit code."""
    ended = os.pidfd_open(keeper)
    poller = select.poll()
    for descriptor in (ended, control.fileno()):
        poller.register(descriptor, select.POLLIN)
    while ended not in dict(poller.poll()):
        os.kill(keeper, ending)
        if not control.recv(1):
            poller.unregister(control.fileno())
    os.close(ended)
    code = exit_code(os.waitpid(keeper, 0)[1])
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass  # whom a keeper left behind
    return code


def begin(setup: dict[str, Any], *descriptors: int) -> Job:
    """Be the first process of the case's namespaces: mount what is its own, and wait; its end ends all others."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a handler no process in here can send it a signal
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self/uid_map would be root's
    kernel.map_ids(setup["ids"], setup["ids"])
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    job, inherited = read(descriptors[0]), descriptors[1:]
    if not setup["persistent"]:
        kernel.mount_tmpfs(kernel.WORKDIR, job["disk"])
    kernel.mount_tmpfs("/tmp", job["disk"])
    kernel.mount_proc()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"1000")  # the first to go when the machine runs out
    kernel.seal_proc()
    child = os.fork()
    if not child:
        return enter(setup, job, inherited)
    for descriptor in inherited[:3]:
        os.close(descriptor)
    os._exit(watch(child, setup, job, inherited[3]))


def keep(setup: dict[str, Any], *descriptors: int) -> Job:
    """Be the same without namespaces: wait for the case and end, as far as possible, whoever it leaves behind."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    job, inherited = read(descriptors[0]), descriptors[1:]
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"1000")
    child = os.fork()
    if not child:
        return enter(setup, job, inherited)
    for descriptor in inherited:
        os.close(descriptor)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    code = exit_code(os.waitpid(child, 0)[1])
    kill_children()
    if not setup["persistent"]:
        empty(setup["workdir"])
    os._exit(code)


def read(descriptor: int) -> Job:
    with open(descriptor, "rb") as file:
        job: Job = json.load(file)
    return job


def watch(child: int, setup: dict[str, Any], job: Job, status: int) -> int:
    """Reap everything until ``child`` ends; kill all if together they hold too much.

    A case of some milliseconds ends before the first look: it costs nothing.
    """
    poller = select.poll()
    poller.register(os.pidfd_open(child), select.POLLIN)
    limits = job["limits"]
    while True:
        poller.poll(LOOK_MILLISECONDS)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    return exit_code(ended[1])
        if memory.over(job["total_memory"], setup["socket_bytes"], limits["RLIMIT_NOFILE"]):
            os.write(status, b"m")
            os.kill(-1, signal.SIGKILL)
        elif setup["count_processes"] and memory.count_tasks() >= limits["RLIMIT_NPROC"]:
            os.kill(-1, signal.SIGKILL)


def enter(setup: dict[str, Any], job: Job, inherited: tuple[int, ...]) -> Job:
    """Become the case: give everything up, then be bash or return to be the program.

    The order matters. Descriptors first: they are what the case could speak to others with. Limits before capabilities
    go, the filter after all that it forbids, and the files last, because they are the model's and so written within the
    limits and with the rights of the case.
    """
    os.setsid()  # no terminal to type into, no process group of the keeper
    for target, source in enumerate(inherited[:3]):
        os.dup2(source, target)
    job["status"] = inherited[3]
    os.set_inheritable(job["status"], False)
    os.closerange(3, job["status"])
    os.closerange(job["status"] + 1, 1 << 20)
    workdir = kernel.WORKDIR if setup["isolate"] else setup["workdir"]
    os.chdir(workdir)
    os.umask(0o022)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # its /proc/self is its own, and the keeper can count what it holds
    kernel.set_limits(job["limits"])
    kernel.drop_privileges()
    seccomp.install(setup["families"])
    # As a fresh process has them: python ignores SIGPIPE and SIGXFSZ, and a shell's children would inherit that
    for number in (signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)[: 1 if job["command"] is None else 3]:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler if job["command"] is None else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    for name, text in job["files"].items():
        write(workdir, name, text)
    os.environ.update(HOME=workdir, PWD=workdir)
    if job["command"] is not None:  # an empty one is a command too
        os.execv("/bin/bash", [*BASH, job["command"]])
    return job


def write(workdir: str, name: str, text: str) -> None:
    """Write a file below the working directory; a link leads nowhere else, least of all out of this world."""
    try:
        path = os.path.realpath(name) if "/" in name or os.path.islink(name) else f"{workdir}/{name}"
        if path.startswith(f"{os.path.realpath(workdir)}/"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            return
    except (
        OSError,
        ValueError,
        MemoryError,
        RecursionError,
    ) as error:  # too long, too large, a NUL, half a surrogate pair ...
        raise ValueError(f"the file '{name[:SHOWN]}' cannot be written: {error}") from None
    raise ValueError(f"the file '{name[:SHOWN]}' lies outside of the sandbox")


def kill_children() -> None:
    """Kill whoever a case left behind: without a namespace, as far as they are this process's children."""
    with contextlib.suppress(ChildProcessError):
        while True:
            children = Path(f"/proc/self/task/{os.getpid()}/children")
            for child in children.read_text().split():
                os.kill(int(child), signal.SIGKILL)
            os.wait()


def empty(directory: str) -> None:
    """Delete what a directory holds."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)


def exit_code(status: int) -> int:
    """Return an exit code as a shell does: 128 + n for signal n."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def start(setup: dict[str, Any]) -> Job:
    """Import, isolate, serve; see `serve` for what returns."""
    control = socket.socket(fileno=setup["control"])
    try:
        for name in MODULES.split():
            importlib.import_module(name)
        setup["socket_bytes"] = memory.socket_bytes()
        setup["families"] = seccomp.FAMILIES if setup["isolate"] else ()
        seccomp.program(setup["families"])
        if setup["isolate"]:
            isolate(setup, control)
        elif os.getuid() == 0:
            with contextlib.suppress(OSError):  # in a user namespace with one uid there is nobody else to be
                os.chown(setup["workdir"], kernel.NOBODY, kernel.NOBODY)
                kernel.become_nobody()
        gc.freeze()  # a collection in a case would write to, and so copy, the pages that it shares with the zygote
    except Exception as error:  # whatever it is: nothing may run here
        control.sendall(f"e{error}".encode())
        os._exit(1)
    return serve(setup, control)


if __name__ == "__main__":
    import site

    site.setquit()
    case = start(json.loads(sys.argv[1]))
    os.close(case["status"])
    run(case["files"]["main.py"])
