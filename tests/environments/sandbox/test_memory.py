"""Memory that is in no process: every way to hold some is refused or counted."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from agentforge.environments.sandbox.memory import PIPE, socket_bytes
from agentforge.environments.sandbox.sandbox import PROGRAM_LIMITS, Limits, isolation_problem, run_command, run_program
from agentforge.environments.sandbox.seccomp import ARCHITECTURES, NUMBERS

pytestmark = pytest.mark.skipif(isolation_problem() is not None, reason=f"no isolation here: {isolation_problem()}")

MIB = 1 << 20
CALL = """
import ctypes, errno, mmap, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
def call(result):
    print("held" if ctypes.c_long(result).value >= 0 else errno.errorcode[ctypes.get_errno()])
"""
COLUMN = list(ARCHITECTURES).index(os.uname().machine) if os.uname().machine in ARCHITECTURES else 0


def number(name: str) -> int | None:
    return NUMBERS[name][COLUMN]


REFUSED = {
    "memfd": (f"call(libc.syscall({number('memfd_create')}, b'x', 0))", "ENOSYS"),
    "huge memfd": (f"call(libc.syscall({number('memfd_create')}, b'x', 4))", "ENOSYS"),
    "System V shared memory": ("call(libc.shmget(0, 1 << 20, 0o1600))", "ENOSYS"),
    "System V messages": ("call(libc.msgget(0, 0o1600))", "ENOSYS"),
    "System V semaphores": ("call(libc.semget(0, 32000, 0o1600))", "ENOSYS"),
    "POSIX messages": ("call(ctypes.CDLL('librt.so.1', use_errno=True).mq_open(b'/x', 0o102, 0o600, None))", "EMFILE"),
    "shared anonymous": ("call(libc.mmap(None, ctypes.c_size_t(1 << 20), 3, 0x21, -1, 0))", "EPERM"),
    "huge pages": ("call(libc.mmap(None, ctypes.c_size_t(1 << 21), 3, 0x40022, -1, 0))", "ENOMEM"),
    "splice": (f"call(libc.syscall({number('splice')}, 0, 0, 1, 0, 1, 0))", "ENOSYS"),
    "tee": (f"call(libc.syscall({number('tee')}, 0, 1, 1, 0))", "ENOSYS"),
    "vmsplice": (f"call(libc.syscall({number('vmsplice')}, 1, 0, 0, 0))", "ENOSYS"),
    "sendfile": (f"call(libc.syscall({number('sendfile')}, 1, 0, 0, 1))", "ENOSYS"),
    "large pipes": ("import fcntl; call(libc.fcntl(os.pipe()[0], 1031, 1 << 20))", "EPERM"),
    "asynchronous input": (f"held = ctypes.c_long(0); call(libc.syscall({number('io_setup')}, 9, 0))", "ENOSYS"),
    "secret memory": (f"call(libc.syscall({number('memfd_secret')}, 0))", "ENOSYS"),
    "Landlock rules": (f"call(libc.syscall({number('landlock_create_ruleset')}, 0, 0, 1))", "ENOSYS"),
    "events of all files": ("call(libc.fanotify_init(0, 0))", "ENOSYS"),
    "events of files": ("call(libc.inotify_init1(0))", "ENOSYS"),
    "locks of a descriptor": (
        "held = open('f', 'w'); call(libc.fcntl(held.fileno(), 37, bytes(32)))",
        "EINVAL",
    ),
    "a process with another's descriptors": (f"call(libc.syscall({number('clone')}, 0x411, 0, 0, 0, 0))", "EPERM"),
    "swapping out": (
        "m = mmap.mmap(-1, 4096, flags=0x22)\ncall(libc.madvise(ctypes.c_void_p(4096), 4096, 21))",
        "EINVAL",
    ),
    "hiding": ("call(libc.prctl(4, 0, 0, 0, 0))", "EPERM"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_memory_that_cannot_be_counted_is_refused(way: str) -> None:
    attempt, refusal = REFUSED[way]
    result = run_program(CALL + attempt)
    assert result.stdout == f"{refusal}\n", result.stderr


def test_the_attempts_are_real_ones() -> None:
    """Those that do no harm outside: there they hold something."""
    for way in ("memfd", "System V semaphores", "shared anonymous", "large pipes", "events of files", "hiding"):
        attempt = REFUSED[way][0].replace("semget(", "semget(2 * ").replace("32000", "1")
        if way == "System V semaphores":
            attempt = "made = libc.semget(0, 1, 0o1600); call(made); libc.semctl(made, 0, 0)"
        run = subprocess.run([sys.executable, "-c", CALL + attempt], capture_output=True, text=True, timeout=60)
        assert run.stdout == "held\n", (way, run.stderr)


def test_a_send_buffer_stays_as_large_as_it_is_counted() -> None:
    attempt = """
import socket
one = socket.socketpair()[0]
before = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
print(before == one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
"""
    assert run_program(attempt).stdout == "True\n"


def test_the_device_of_zeros_is_no_shared_memory() -> None:
    attempt = """
import mmap
with open("/dev/zero", "rb") as zeros:
    print(zeros.read(5))
    held = mmap.mmap(zeros.fileno(), 8 << 20, prot=mmap.PROT_READ)
for place in range(0, 8 << 20, 4096): held[place]
print("held")
"""
    result = run_program(attempt)
    assert (result.exit_code, "held" in result.stdout) == (128 + 7, False), "SIGBUS at the end of the root's megabyte"
    assert run_command("head -c 3M /dev/zero | wc -c; dd if=/dev/zero bs=1k count=2 2>/dev/null | wc -c").stdout == (
        f"{3 * MIB}\n2048\n"
    )


HOLD = """
import array, ctypes, mmap, os, socket, threading, time
def fill(sender, most=1 << 30):
    sender.setblocking(False)
    try:
        while most > 0: most -= sender.send(bytes(min(most, 1 << 16)))
    except OSError: pass
"""
# What holds memory, and how: more than the MiB of the limit, which a Python program alone does not reach
COUNTED = {
    "pipes": (12, "for _ in range(200): read, write = os.pipe(); os.write(write, bytes(1 << 16)); os.close(write)"),
    "FIFOs": (
        12,
        """for n in range(200):
    os.mkfifo(f"f{n}"); held = os.open(f"f{n}", os.O_RDWR); os.write(held, bytes(1 << 16))""",
    ),
    "pipes of a thread's own": (
        32,
        """def work():
    ctypes.CDLL(None).syscall(436, 1000, 2000, 2)  # close_range with CLOSE_RANGE_UNSHARE: an own table
    for _ in range(100): read, write = os.pipe(); os.write(write, bytes(1 << 16))
    time.sleep(9)
for _ in range(9): threading.Thread(target=work).start()""",
    ),
    "sockets": (
        48,
        """held = []
for _ in range(200):
    one, other = socket.socketpair(); fill(one); one.close(); held.append(other)""",
    ),
    "a server's backlog": (
        64,
        """server = socket.socket(socket.AF_UNIX); server.bind("s"); server.listen(4096)
while True:
    client = socket.socket(socket.AF_UNIX); client.connect("s"); fill(client); client.close()""",
    ),
    "locks": (
        32,
        """import fcntl
held = open("f", "w")
for n in range(1000): fcntl.lockf(held, fcntl.LOCK_EX, 1, 2 * n)""",
    ),
    "files": (24, "open('f', 'wb').write(bytes(15 << 20)); open('/tmp/f', 'wb').write(bytes(15 << 20))"),
    "deleted files": (
        24,
        """for n in range(2):
    held = os.open(f"/tmp/{n}", os.O_RDWR | os.O_CREAT); os.write(held, bytes(15 << 20)); os.unlink(f"/tmp/{n}")""",
    ),
    "POSIX shared memory": (
        16,
        """from multiprocessing.shared_memory import SharedMemory
held = SharedMemory(create=True, size=15 << 20); held.buf[:] = bytes(15 << 20)""",
    ),
    "a process whose first thread has ended": (
        48,
        """def hold():
    held = b"x" * (60 << 20)
    time.sleep(9)
threading.Thread(target=hold).start()
time.sleep(0.3)
ctypes.CDLL(None).syscall({exit}, 0)""",
    ),
}


@pytest.mark.parametrize("way", COUNTED)
def test_memory_outside_of_processes_is_counted(way: str) -> None:
    limit, attempt = COUNTED[way]
    small = replace(PROGRAM_LIMITS, total_memory=limit * MIB)
    attempt = attempt.replace("{exit}", {"x86_64": "60", "aarch64": "93"}[os.uname().machine])
    result = run_program(f"{HOLD}{attempt}\ntime.sleep(9)", limits=small)
    assert (result.out_of_memory, result.timed_out) == (True, False), result.stderr


def test_what_is_counted_is_what_a_pipe_and_a_socket_hold() -> None:
    """The bounds of the sum: nothing takes more than it counts for."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    assert os.write(write, bytes(4 * PIPE)) <= PIPE
    os.close(read), os.close(write)
    attempt = f"{HOLD}one, other = socket.socketpair(); fill(one); other.setblocking(False); n = 0\n" + (
        "try:\n    while True: n += len(other.recv(1 << 20))\nexcept BlockingIOError: print(n)"
    )
    assert 0 < int(run_program(attempt).stdout) <= socket_bytes()


def test_little_of_everything_is_no_burst() -> None:
    """What ordinary programs have is far from the limits: an event loop, some pipes, a child or two."""
    attempt = """
import asyncio, multiprocessing, subprocess, time
async def main():
    running = await asyncio.create_subprocess_exec("sleep", "0.2")
    await running.wait()
asyncio.run(main())
with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(-3, 3))))
"""
    result = run_program(attempt, limits=replace(PROGRAM_LIMITS, total_memory=128 * MIB))
    assert (result.stdout, result.out_of_memory) == ("9\n", False), result.stderr


def test_libraries_do_without_what_is_refused() -> None:
    attempt = "import shutil; open('a', 'w').write('x' * 99); shutil.copyfile('a', 'b'); print(len(open('b').read()))"
    assert run_program(attempt).stdout == "99\n"
    result = run_command("echo a > f; cp f g; cat f g | tail -n 1; timeout 0.1 tail -f f", limits=Limits())
    assert result.stdout == "a\na\n"
