"""The kernel's side of the sandbox: namespaces, mounts, capabilities. Linux; standard library only.

A world is built from nothing: an empty tmpfs as the root, read-only programs and libraries, four devices, a /proc of
its own, and nothing else of the host. It needs user namespaces and no privilege.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import stat
import struct

# Why each namespace: USER gives an unprivileged process the right to make the others, and counts a case's processes for
# RLIMIT_NPROC; NS (mounts) takes the host's files away; PID its processes, and its end ends all of the case; NET the
# network and the abstract sockets; IPC System V and POSIX queues; UTS the host's name.
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
EVERYTHING = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442  # the same numbers on every 64-bit architecture
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 1, 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
CAPABILITY_VERSION_3 = 0x20080522
SYS_CLONE = {"x86_64": 56, "aarch64": 220}
MACHINE = os.uname().machine
NOBODY = 65534
ROOT = "/tmp"  # where the new root is put together: the one directory that every system has
WORKDIR = "/workdir"
DEVICES = tuple(f"/dev/{name}" for name in ("null", "full", "random", "urandom"))
ZEROS = 1 << 60
"""Bytes of /dev/zero, which is a file with a hole: to map the device is to get shared memory that nobody can count,
here it is part of the root's one megabyte."""
INODES = 20_000
"""Of each tmpfs: an empty file takes no bytes of it, but about a kilobyte of the kernel's."""

libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, result: int) -> None:
    """Raise OSError with the name of a libc call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prctl(option: int, value: int = 0) -> None:
    """prctl(2)."""
    call(f"prctl {option}", libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2)."""
    arguments = [None if text is None else text.encode() for text in (source, target, kind, options)]
    call(f"mount {target}", libc.mount(*arguments[:3], ctypes.c_ulong(flags), arguments[3]))


def mount_tmpfs(target: str, size: int) -> None:
    """A tmpfs of ``size`` bytes: what is written there is memory, and no more than this."""
    mount("tmp", target, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes={INODES},mode=1777")


def mount_proc(root: str = "") -> None:
    """The /proc of the present PID namespace. The kernel allows it only where another one is in sight, uncovered."""
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV)


def seal_proc() -> None:
    """Make the present /proc read-only.

    Settings of the machine (/proc/sys, /proc/sysrq-trigger) ask for the user root and not for a capability. Where a
    namespace has only one user, that may be who a case is.
    """
    set_attributes(AT_FDCWD, "/proc", 0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)


def become_nobody() -> None:
    """Give up root for good: RLIMIT_NPROC does not bind root."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    prctl(PR_SET_DUMPABLE, 1)  # else the files of /proc/self would be root's


def enter_namespaces() -> tuple[int, int]:
    """Leave the present network, mounts, IPC and users (and, for children, processes).

    Returns:
        The uid and gid in there: the same as before, but never root's. Root comes here where it cannot become *nobody*,
        in a user namespace with a single uid; by another name programs do not take themselves for root.
    """
    outside = os.getuid(), os.getgid()
    inside = outside[0] or NOBODY, outside[1] or NOBODY
    call("unshare", libc.unshare(EVERYTHING))
    map_ids(inside, outside)
    return inside


def binds_processes() -> bool:
    """Return whether RLIMIT_NPROC binds this user. Tried out: it does not bind the machine's root, and inside of a user
    namespace nothing tells who that is."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        grandchild = os.fork()
    except OSError:
        os._exit(0)
    if grandchild:
        os.waitpid(grandchild, 0)
    os._exit(1)


def clone() -> int:
    """fork(2) and unshare(2) in one, for a process with one thread: the child is the first of its PID namespace.

    libc has no such fork, so the child's libc takes itself for its parent; `os.fork` in the child mends that. The
    child calls `map_ids` first.
    """
    child = libc.syscall(SYS_CLONE[MACHINE], ctypes.c_long(EVERYTHING | signal.SIGCHLD), 0, 0, 0, 0)
    call("clone", child)
    return int(child)


def map_ids(inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Give a new user namespace one user and one group."""
    for name, text in (
        ("setgroups", b"deny"),  # without it only a privileged process may map a group
        ("uid_map", b"%d %d 1" % (inside[0], outside[0])),
        ("gid_map", b"%d %d 1" % (inside[1], outside[1])),
    ):
        with open(f"/proc/self/{name}", "wb", buffering=0) as file:
            file.write(text)


def take(paths: list[str]) -> dict[str, str | int]:
    """Return the host paths that exist, each with what it links to or else with a read-only copy of its mount.

    Root takes them before it becomes *nobody*, who may not enter every directory on the way (an interpreter in a home).
    """
    present = [path for path in paths if os.path.exists(path)]
    attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID
    return {path: os.readlink(path) if os.path.islink(path) else clone_tree(path, attributes) for path in present}


def clone_tree(path: str, attributes: int = 0) -> int:
    """open_tree(2): a copy of a mount that hangs nowhere yet."""
    tree = libc.syscall(SYS_OPEN_TREE, AT_FDCWD, path.encode(), OPEN_TREE_CLONE | AT_RECURSIVE)
    call(f"open_tree {path}", tree)
    set_attributes(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, attributes)
    return int(tree)


def set_attributes(tree: int, path: str, flags: int, attributes: int) -> None:
    """mount_setattr(2), and no propagation."""
    wanted = struct.pack("QQQQ", attributes, 0, MS_PRIVATE, 0)
    call(f"mount_setattr {path}", libc.syscall(SYS_MOUNT_SETATTR, tree, path.encode(), flags, wanted, len(wanted)))


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


def change_root(shown: dict[str, str | int]) -> None:
    """Put a root together from nothing and let go of the old one; the new one is read-only but for later mounts."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)  # else systemd's hosts would get to see what is mounted here
    mount("sandbox", ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path, held in shown.items():
        put(held, path)
    for path in DEVICES:
        put(clone_tree(path), path)
    with open(f"{ROOT}/dev/zero", "wb") as zeros:
        zeros.truncate(ZEROS)
    os.symlink("/tmp", f"{ROOT}/dev/shm")
    for name in ("tmp", "proc", WORKDIR[1:]):
        os.mkdir(f"{ROOT}/{name}")
    mount_proc(ROOT)
    # Old and new root both at ".": the new one on top, then the old one below it goes, with every mount of the host
    os.chdir(ROOT)
    call("pivot_root", libc.pivot_root(b".", b"."))
    call("umount", libc.umount2(b".", MNT_DETACH))
    os.chdir("/")
    set_attributes(AT_FDCWD, "/", 0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID)


def drop_privileges() -> None:
    """Give up every capability of the own user namespace; no program's set-user-id bit or file gives any back."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    call("capset", libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)))


def set_limits(limits: dict[str, int]) -> None:
    """Set rlimits by the names of the resource module; none is raised above what holds already."""
    for name, value in limits.items():
        limit = getattr(resource, name)
        hard = resource.getrlimit(limit)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (least, least))
