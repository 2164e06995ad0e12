"""A seccomp filter: system calls that no program here needs, and that namespaces and rlimits do not hold in.

Four reasons put a call on the list:

- It leads out of the namespaces. AF_VSOCK reaches the machine that hosts a virtual machine, whatever the network
  namespace. Keys outlive the process that stores them.
- It undoes what holds the case: new user namespaces give capabilities back, mounts change the root, ptrace and
  pidfd_getfd take over other processes, and io_uring makes system calls that no filter sees.
- It takes memory that cannot be counted (see `memory`): memory without a process (memfd, System V), pages that
  are handed over instead of copied and so are in no process any more (splice), buffers of any size.
- It is a part of the kernel where many of its holes were, and nobody misses it (bpf, perf, userfaultfd).

A call is refused with the error that a program expects of a kernel without it, so that libraries fall back: shutil
copies without sendfile, `tail -f` polls without inotify.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from functools import cache
from typing import NamedTuple

from agentforge.environments.sandbox.kernel import CLONE_NEWUSER, MACHINE, PR_SET_DUMPABLE, call, libc

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, AND, EQUAL, AT_LEAST, RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # BPF: ld [k], and, jeq, jge, ret
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data, little endian
X32 = 0x40000000
FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: an empty network namespace holds these in."""

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH of the kernel's linux/audit.h. Columns of the numbers below: in this order."""

# arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; None: that architecture has no such call
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "clone": (56, 220),
    "clone3": (435, 435),
    "mmap": (9, 222),
    "madvise": (28, 233),
    "fcntl": (72, 25),
    "setsockopt": (54, 208),
    "prctl": (157, 167),
    "ptrace": (101, 117),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "pidfd_getfd": (438, 438),
    "mount_setattr": (442, 442),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "sendfile": (40, 71),
    "splice": (275, 76),
    "tee": (276, 77),
    "vmsplice": (278, 75),
    "io_setup": (206, 0),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "landlock_create_ruleset": (444, 444),
    "process_madvise": (440, 440),
}

FORBIDDEN = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),  # other processes
    *("mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "mount_setattr"),  # the root
    *("fsopen", "fsconfig", "fsmount", "fspick", "open_by_handle_at", "unshare", "setns"),
    *("add_key", "request_key", "keyctl"),  # they outlive the case
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),  # past this filter
    *("kexec_load", "perf_event_open", "bpf", "userfaultfd"),  # holes
)
MISSING = (
    "clone3",  # libc then uses clone, whose flags a filter can read: here they are behind a pointer
    *("memfd_create", "memfd_secret", "shmget", "semget", "msgget"),  # memory that belongs to no process
    *("sendfile", "splice", "tee", "vmsplice"),  # a pipe or socket then holds pages that nobody else counts
    *("io_setup", "inotify_init", "inotify_init1", "fanotify_init", "landlock_create_ruleset"),  # kernel memory at will
    "process_madvise",  # as madvise below
)


class CallRule(NamedTuple):
    """A call is answered with ``verdict`` if its argument, masked, has this value."""

    call: str
    argument: int
    mask: int
    value: int
    verdict: int


MAP_SHARED_ANONYMOUS, MAP_TYPE_AND_ANONYMOUS, MAP_HUGETLB = 0x21, 0x2F, 0x40000
CLONE_FILES, CLONE_FILES_OR_THREAD = 0x400, 0x10400
MADV_PAGEOUT, F_SETPIPE_SZ, F_OFD_SETLK, F_OFD_SETLKW, SO_SNDBUF, SO_SNDBUFFORCE = 21, 1031, 37, 38, 7, 32
WHOLE = 0xFFFFFFFF
RULES = (
    CallRule("clone", 0, CLONE_NEWUSER, CLONE_NEWUSER, ERRNO | errno.EPERM),  # would have every capability in there
    # Shared anonymous memory stays when all but a page of it is unmapped, and is then in no process
    CallRule("mmap", 3, MAP_TYPE_AND_ANONYMOUS, MAP_SHARED_ANONYMOUS, ERRNO | errno.EPERM),
    CallRule("mmap", 3, MAP_HUGETLB, MAP_HUGETLB, ERRNO | errno.ENOMEM),  # not in the resident pages
    CallRule("madvise", 2, WHOLE, MADV_PAGEOUT, ERRNO | errno.EINVAL),  # swapped out at will
    CallRule("fcntl", 1, WHOLE, F_SETPIPE_SZ, ERRNO | errno.EPERM),  # a pipe counts as 64 KiB
    # /proc/locks shows only locks with a living owner in the namespace: none that belong to a descriptor, none of a
    # process that has left them to another one
    CallRule("fcntl", 1, WHOLE, F_OFD_SETLK, ERRNO | errno.EINVAL),
    CallRule("fcntl", 1, WHOLE, F_OFD_SETLKW, ERRNO | errno.EINVAL),
    CallRule("clone", 0, CLONE_FILES_OR_THREAD, CLONE_FILES, ERRNO | errno.EPERM),
    # A socket counts as twice the default; nothing is told to have been done, as the kernel takes it for a hint too
    CallRule("setsockopt", 2, WHOLE, SO_SNDBUF, ERRNO),
    CallRule("setsockopt", 2, WHOLE, SO_SNDBUFFORCE, ERRNO),
    CallRule(
        "prctl", 0, WHOLE, PR_SET_DUMPABLE, ERRNO | errno.EPERM
    ),  # would hide pages and descriptors from the count
)


@cache
def program(families: tuple[int, ...] = FAMILIES) -> bytes:
    """Return the filter as BPF instructions: each test jumps over its verdict if it does not hold.

    Args:
        families: of sockets that may be opened.

    Raises:
        OSError: there is no list of system calls for this kind of machine.
    """
    if MACHINE not in ARCHITECTURES:
        raise OSError(f"there is no list of system calls for {MACHINE}")
    lines = [
        # Another ABI (i386 by int 0x80) has other numbers: this list would mean other calls
        _instruction(LOAD, ARCHITECTURE),
        _jump(EQUAL, ARCHITECTURES[MACHINE], 1, 0),
        _instruction(RETURN, KILL),
        _instruction(LOAD, NUMBER),
        *_if(AT_LEAST, X32, ERRNO | errno.ENOSYS),
    ]
    for names, error in ((FORBIDDEN, errno.EPERM), (MISSING, errno.ENOSYS)):
        for name in names:
            if (number := _number(name)) is not None:
                lines += _if(EQUAL, number, ERRNO | error)
    for rule in RULES:
        lines += _rule(rule)
    socket = _number("socket")
    assert socket is not None
    lines += [_jump(EQUAL, socket, 1, 0), _instruction(RETURN, ALLOW), _instruction(LOAD, ARGUMENTS)]
    for family in families:
        lines += _if(EQUAL, family, ALLOW)
    return b"".join([*lines, _instruction(RETURN, ERRNO | errno.EAFNOSUPPORT)])


def install(families: tuple[int, ...] = FAMILIES) -> None:
    """Filter this process and all that it starts; needs no_new_privs."""
    code = program(families)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    call("seccomp", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0))


def _number(name: str) -> int | None:
    return NUMBERS[name][list(ARCHITECTURES).index(MACHINE)]


def _rule(rule: CallRule) -> list[bytes]:
    """Look at the low half of an argument (all of these are 32 bits), and load the call's number again after it."""
    number = _number(rule.call)
    assert number is not None
    test = [
        _instruction(LOAD, ARGUMENTS + 8 * rule.argument),
        _instruction(AND, rule.mask),
        *_if(EQUAL, rule.value, rule.verdict),
        _instruction(LOAD, NUMBER),
    ]
    return [_jump(EQUAL, number, 0, len(test)), *test]


def _instruction(code: int, value: int) -> bytes:
    return struct.pack("HBBI", code, 0, 0, value)


def _jump(test: int, value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", test, yes, no, value)


def _if(test: int, value: int, verdict: int) -> list[bytes]:
    return [_jump(test, value, 0, 1), _instruction(RETURN, verdict)]
