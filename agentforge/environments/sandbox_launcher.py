"""What the sandbox's process does before it becomes bash. Run as a script of its own; standard library only.

It takes one argument, JSON: ``command``, ``workdir``, ``environment``, ``limits`` (rlimit name: value), ``isolate``,
``readonly`` (host paths to show), ``status_fd`` (where a failed set-up is reported). As root it first becomes *nobody*,
because RLIMIT_NPROC does not bind root. Then, without any privilege but what a new user namespace gives: no network, no
other processes, no host files but read-only programs and libraries.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import stat
import struct
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442  # the same numbers on every 64-bit architecture
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
NOBODY = 65534
ROOT = "/tmp"  # where the new root is put together: the one directory that every system has
DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))

libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, result: int) -> None:
    """Raise OSError with the name of a libc call that failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    arguments = [None if text is None else text.encode() for text in (source, target, kind, options)]
    call(f"mount {target}", libc.mount(*arguments[:3], ctypes.c_ulong(flags), arguments[3]))


def become_nobody() -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    call("prctl", libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0))


def enter_namespaces() -> None:
    """Leave the host's network, processes, mounts and IPC; keep the user's own ids."""
    uid, gid = os.getuid(), os.getgid()
    call(
        "unshare", libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
    )
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def take(paths: list[str]) -> dict[str, str | int]:
    """Return the host paths that exist, each with what it links to or else with a read-only copy of its mount.

    Root takes them before it becomes *nobody*, who may not enter every directory on the way (an interpreter in a home).
    """
    present = [path for path in paths if os.path.exists(path)]
    attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    return {path: os.readlink(path) if os.path.islink(path) else clone_tree(path, attributes) for path in present}


def clone_tree(path: str, attributes: int = 0) -> int:
    """open_tree(2) and mount_setattr(2): a copy of a mount that hangs nowhere yet."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE
    tree = libc.syscall(SYS_OPEN_TREE, AT_FDCWD, path.encode(), flags)
    call(f"open_tree {path}", min(tree, 0))
    wanted = struct.pack("QQQQ", attributes, 0, MS_PRIVATE, 0)
    made = libc.syscall(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH | AT_RECURSIVE, wanted, len(wanted))
    call(f"mount_setattr {path}", made)
    return int(tree)


def put(held: str | int, path: str) -> None:
    """Make a link, or hang a copied mount (move_mount(2)), below the new root."""
    target = ROOT + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if isinstance(held, str):
        os.symlink(held, target)
        return
    if stat.S_ISDIR(os.fstat(held).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        open(target, "w").close()
    moved = libc.syscall(SYS_MOVE_MOUNT, held, b"", AT_FDCWD, target.encode(), MOVE_MOUNT_F_EMPTY_PATH)
    call(f"move_mount {path}", moved)
    os.close(held)


def change_root(workdir: str, shown: dict[str, str | int]) -> None:
    """Put a root together from nothing and move into it; in a chroot no user namespace can be made to get out again."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    inside = os.open(workdir, os.O_PATH | os.O_DIRECTORY)  # the new root covers the directory that it lies in
    mount("sandbox", ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir(f"{ROOT}/workdir")
    mount(f"/proc/self/fd/{inside}", f"{ROOT}/workdir", None, MS_BIND)
    os.close(inside)
    for path, held in shown.items():
        put(held, path)
    for path in DEVICES:
        put(clone_tree(path), path)
    for name in ("tmp", "proc"):
        os.mkdir(f"{ROOT}/{name}")
    mount("tmp", f"{ROOT}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,mode=1777")
    mount("proc", f"{ROOT}/proc", "proc", MS_NOSUID | MS_NODEV)
    os.chroot(ROOT)


def execute(job: dict[str, Any], workdir: str) -> None:
    """Set the limits and become bash; never returns."""
    os.chdir(workdir)
    for name, value in job["limits"].items():
        limit = getattr(resource, name)
        hard = resource.getrlimit(limit)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (least, least))
    call("prctl", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    environment = job["environment"] | {"HOME": workdir, "PWD": workdir}
    os.execve("/bin/bash", ["bash", "--noprofile", "--norc", "-c", job["command"]], environment)


def wait_for(pid: int) -> int:
    """Reap everything until ``pid`` ends and return its exit code, 128 + n for signal n."""
    while True:
        ended, status = os.wait()
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def launch(job: dict[str, Any]) -> int:
    """Isolate, run, wait; the end of the first process in the namespace kills every other in it."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    shown = None
    if os.getuid() == 0:
        with contextlib.suppress(OSError):  # root without CAP_SYS_ADMIN is like anyone else
            shown = take(job["readonly"]) if job["isolate"] else None
        become_nobody()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of ids clears it
    if not job["isolate"]:
        execute(job, job["workdir"])
    enter_namespaces()
    shown = take(job["readonly"]) if shown is None else shown
    first = os.fork()
    if first:
        signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGKILL))  # then the namespace is emptied first
        os.close(job["status_fd"])
        return wait_for(first)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    change_root(job["workdir"], shown)
    child = os.fork()
    if child:
        os.close(job["status_fd"])
        os._exit(wait_for(child))
    execute(job, "/workdir")
    return 1


if __name__ == "__main__":
    received = json.loads(sys.argv[1])
    try:
        os.set_inheritable(received["status_fd"], False)
        os._exit(launch(received))
    except Exception as error:  # whatever it is: the command did not run
        os.write(received["status_fd"], str(error).encode())
        os._exit(1)
