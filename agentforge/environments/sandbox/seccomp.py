"""A seccomp filter: system calls that no program here needs, and that namespaces do not hold in.

Namespaces hide the network but not every family of sockets: AF_VSOCK reaches the machine that hosts a virtual machine,
whatever the network namespace. Keys outlive the process that stores them. io_uring opens sockets past any filter. The
rest is the part of the kernel where most of its holes were.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from functools import cache

from agentforge.environments.sandbox.kernel import CLONE_NEWUSER, MACHINE, call, libc

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF: ld [k], jeq, jge, jset, ret
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little endian
X32 = 0x40000000
FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: an empty network namespace holds these in."""

EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442)
"""io_uring (3), open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, pidfd_getfd, mount_setattr."""
CLONE3 = 435

# name: AUDIT_ARCH, socket, clone, denied (arch/*/include/asm/unistd of the kernel)
ARCHITECTURES: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        41,
        56,
        # ptrace, pivot_root, chroot, mount, umount2, kexec_load, add_key, request_key, keyctl, unshare,
        # perf_event_open, open_by_handle_at, setns, process_vm_readv, process_vm_writev, bpf, userfaultfd
        (101, 155, 161, 165, 166, 246, 248, 249, 250, 272, 298, 304, 308, 310, 311, 321, 323),
    ),
    "aarch64": (
        0xC00000B7,
        198,
        220,
        (117, 41, 51, 40, 39, 104, 217, 218, 219, 97, 241, 265, 268, 270, 271, 280, 282),
    ),
}


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
    architecture, socket, clone, denied = ARCHITECTURES[MACHINE]
    lines = [
        _load(ARCHITECTURE),
        *_unless(EQUAL, architecture, KILL),
        _load(NUMBER),
        *_if(AT_LEAST, X32, ERRNO | errno.ENOSYS),
        *_if(EQUAL, CLONE3, ERRNO | errno.ENOSYS),  # libc then uses clone, whose flags a filter can read
    ]
    for number in sorted({*denied, *EVERYWHERE}):
        lines += _if(EQUAL, number, ERRNO | errno.EPERM)
    lines += [_jump(EQUAL, clone, 0, 3), _load(FIRST_ARGUMENT), *_if(ANY_BIT, CLONE_NEWUSER, ERRNO | errno.EPERM)]
    lines += [_load(NUMBER), _jump(EQUAL, socket, 1, 0), _return(ALLOW), _load(FIRST_ARGUMENT)]
    for family in families:
        lines += _if(EQUAL, family, ALLOW)
    return b"".join([*lines, _return(ERRNO | errno.EAFNOSUPPORT)])


def install(families: tuple[int, ...] = FAMILIES) -> None:
    """Filter this process and all that it starts; needs no_new_privs."""
    code = program(families)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    call("seccomp", libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0))


def _jump(test: int, value: int, yes: int, no: int) -> bytes:
    return struct.pack("HBBI", test, yes, no, value)


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", LOAD, 0, 0, offset)


def _return(verdict: int) -> bytes:
    return struct.pack("HBBI", RETURN, 0, 0, verdict)


def _if(test: int, value: int, verdict: int) -> list[bytes]:
    return [_jump(test, value, 0, 1), _return(verdict)]


def _unless(test: int, value: int, verdict: int) -> list[bytes]:
    return [_jump(test, value, 1, 0), _return(verdict)]
