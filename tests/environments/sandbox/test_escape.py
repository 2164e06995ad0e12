"""Every way out is really tried: each attempt works on a bare machine, and is proved to wherever that harms nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentforge.environments.sandbox.pool import Zygote, pool
from agentforge.environments.sandbox.sandbox import (
    PROGRAM_LIMITS,
    Sandbox,
    SandboxResult,
    isolation_problem,
    run_command,
    run_program,
)

pytestmark = pytest.mark.skipif(isolation_problem() is not None, reason=f"no isolation here: {isolation_problem()}")
HEALTHY = "print(sum(range(10)))"


@pytest.fixture(autouse=True)
def the_next_case_is_unharmed() -> Iterator[None]:
    """Whatever a case has tried: the same zygotes still answer rightly, and their directories are empty."""
    yield
    for _ in range(pool(True).size):
        assert run_program(HEALTHY).stdout == "45\n"
    assert run_program("import os; print(os.listdir('.'), os.listdir('/tmp'))").stdout == "['main.py'] []\n"


def outside(source: str) -> str:
    """Run a program without a sandbox: the proof that the attempt is a real one."""
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    return run.stdout + run.stderr


def processes(word: str) -> list[str]:
    """Command lines on the host that hold a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if word in line and "pytest" not in line:
            found.append(line)
    return found


def zombies() -> int:
    count = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        count += state == "Z" and int(parent) in (os.getpid(), 1)
    return count


# -- network --------------------------------------------------------------------------------------------------------

CONNECT = """
import socket
try:
    socket.create_connection(({host!r}, {port}), timeout=3).sendall(b"secret")
    print("connected")
except OSError as error:
    print("refused", type(error).__name__)
"""


def test_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempt = CONNECT.format(host="127.0.0.1", port=server.getsockname()[1])
        assert outside(attempt) == "connected\n"
        assert run_program(attempt).stdout.startswith("refused")
    devices = run_program("print([line.split(':')[0].strip() for line in open('/proc/net/dev')][2:])").stdout
    assert devices == "['lo']\n"


def test_names_are_not_resolved() -> None:
    attempt = "import socket\ntry: print(socket.gethostbyname('pypi.org'))\nexcept OSError: print('no')"
    assert run_program(attempt).stdout == "no\n"


@pytest.mark.parametrize("family", ["AF_VSOCK", "AF_NETLINK", "AF_PACKET", "AF_ALG"])
def test_families_that_a_network_namespace_does_not_hold(family: str) -> None:
    """AF_VSOCK reaches the host of a virtual machine from any network namespace."""
    attempt = (
        f"import socket\ntry: socket.socket(socket.{family}, socket.SOCK_RAW)\nexcept OSError as e: print(e.errno)"
    )
    assert run_program(attempt.replace("SOCK_RAW", "SOCK_STREAM")).stdout == "97\n", "EAFNOSUPPORT"
    assert run_program(attempt).stdout == "97\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the other ways into the kernel are x86's")
def test_the_filter_has_no_back_door() -> None:
    """The same calls by their numbers of other ABIs: x32 has a bit set, i386 comes through int 0x80."""
    attempt = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
AF_VSOCK, X32 = 40, 0x40000000
print(libc.syscall(41 | X32, AF_VSOCK, 1, 0), ctypes.get_errno())
"""
    assert run_program(attempt).stdout == "-1 38\n", "ENOSYS"
    attempt = """
import ctypes, mmap
protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
print(function())
"""
    assert outside(attempt).strip().isdigit()
    result = run_program(attempt)
    assert (result.stdout, result.exit_code) == ("", 128 + 31), "SIGSYS"


def test_abstract_sockets_of_the_host() -> None:
    name = f"\0agentforge-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        attempt = f"import socket; socket.socket(socket.AF_UNIX).connect({name!r}); print('connected')"
        assert outside(attempt) == "connected\n"
        assert "ConnectionRefused" in run_program(attempt).stderr


# -- files ----------------------------------------------------------------------------------------------------------


def test_files_of_the_host(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    attempt = f"print(open({str(secret)!r}).read())"
    assert outside(attempt) == "s3cret\n"
    assert "FileNotFoundError" in run_program(attempt).stderr
    for path in (
        "/etc/shadow",
        "/etc/hostname",
        "/root/.ssh",
        "/home",
        "/var/log",
        "/sys",
        "/dev/sda",
        "/dev/mem",
        "/run",
    ):
        assert run_program(f"import os; print(os.path.exists({path!r}))").stdout == "False\n", path


def test_a_symlink_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret")
    with Sandbox() as box:
        box.run(f"ln -s {tmp_path} way; ln -s /proc/1/root root; ln -s ../../../../../.. up")
        for path in ("way/secret", f"root{tmp_path}/secret", f"up{tmp_path}/secret"):
            assert "s3cret" not in box.run(f"cat {path}").stdout
        with pytest.raises(ValueError, match="outside of the sandbox"):
            box.write("way/mine", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_hard_links_and_open_directories() -> None:
    """The classic way out of a chroot: keep a directory open, change the root, walk up."""
    attempt = """
import os
held = os.open("/", os.O_RDONLY)
for name, step in {"chroot": lambda: os.chroot("/tmp"), "link": lambda: os.link("/etc/passwd", "/tmp/p")}.items():
    try: step(); print(name, "done")
    except OSError as error: print(name, "no")
os.fchdir(held)
for _ in range(20): os.chdir("..")
print(sorted(set(os.listdir(".")) & {"workdir", "sys", "home"}))
"""
    assert run_program(attempt).stdout == "chroot no\nlink no\n['workdir']\n"


def test_the_system_is_read_only() -> None:
    attempt = """
import os
written = []
for directory, _, _ in os.walk("/"):
    if directory.startswith(("/proc", "/tmp", "/workdir")): continue
    try: open(directory + "/mine", "w"); written.append(directory)
    except OSError: pass
for path in ("/etc/passwd", "/usr/bin/env", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname"):
    try: open(path, "r+b"); written.append(path)
    except OSError: pass
print(written)
"""
    assert run_program(attempt, timeout=60).stdout == "[]\n"


def test_mounts_cannot_be_changed() -> None:
    for command in ("mount -o remount,rw /", "umount /proc", "umount /workdir", "unshare -Ur true", "mknod d b 8 0"):
        assert run_command(command).exit_code != 0, command


# -- processes ------------------------------------------------------------------------------------------------------


def test_processes_of_the_host() -> None:
    listing = "import os; print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()))"
    assert str(os.getpid()) in outside(listing)
    assert run_program(listing).stdout == "[1, 2]\n"
    attempt = """
for name in ("environ", "mem", "maps", "fd/0", "root/etc", "cwd", "task/1/environ"):
    try:
        with open(f"/proc/1/{name}", "rb") as file: print(name, len(file.read(10)))
    except OSError: pass
"""
    assert run_program(attempt).stdout == ""


def test_signals_to_the_parent() -> None:
    attempt = """
import os, signal
print(os.getppid())
for number in range(1, 65):
    for target in (1, os.getppid()):
        try: os.kill(target, number)
        except OSError: pass
print("still here")
"""
    result = run_program(attempt)
    assert (result.stdout, result.exit_code) == ("1\nstill here\n", 0)
    victim = subprocess.Popen(["sleep", "60"])
    try:
        run_program(f"import os; os.kill({victim.pid}, 9)")
        run_program("import os; os.kill(-1, 9)")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_ptrace() -> None:
    attempt = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH = 16
print(libc.ptrace(PTRACE_ATTACH, 1, 0, 0), ctypes.get_errno())
print(libc.process_vm_readv(1, None, 0, None, 0, 0), ctypes.get_errno())
"""
    assert run_program(attempt).stdout == "-1 1\n-1 1\n", "EPERM"


def test_fork_bomb() -> None:
    attempt = """
import os, time
made = 0
try:
    while True:
        if not os.fork(): time.sleep(100)
        made += 1
except OSError as error:
    print(made, type(error).__name__)
"""
    made, error = run_program(attempt, limits=replace(PROGRAM_LIMITS, processes=16)).stdout.split()
    assert int(made) == 15, "the case itself is one of the sixteen"
    assert error == "BlockingIOError"
    started = time.monotonic()
    assert run_command(":(){ :|:& };:; sleep 60", timeout=2).timed_out
    assert time.monotonic() - started < 30
    assert processes("sleep\x0060") == []


def test_threads_count_as_processes() -> None:
    attempt = "import threading, time\nfor i in range(100): threading.Thread(target=time.sleep, args=(9,)).start()"
    assert "can't start new thread" in run_program(attempt, timeout=3).stderr


def test_no_process_and_no_zombie_is_left() -> None:
    before = zombies()
    attempt = """
import os, time
if not os.fork():
    os.setsid()
    if os.fork(): os._exit(0)
    os.execv("/bin/sleep", ["sleep", "98765"])
for _ in range(8):
    if not os.fork(): os._exit(0)
time.sleep(0.2)
os.kill(os.getpid(), 9)
"""
    for _ in range(3):
        assert run_program(attempt).exit_code == 137
    assert processes("98765") == []
    assert zombies() == before


# -- resources ------------------------------------------------------------------------------------------------------


def test_memory_bomb() -> None:
    assert "MemoryError" in run_program("x = bytearray(1 << 30)").stderr


def test_memory_bomb_of_many_processes() -> None:
    attempt = """
import os, time
for _ in range(6):
    if not os.fork():
        held = bytearray(os.urandom(1 << 20) * 100)
        time.sleep(60)
time.sleep(60)
"""
    limits = replace(PROGRAM_LIMITS, total_memory=256 << 20)
    result = run_program(attempt, timeout=30, limits=limits)
    assert (result.out_of_memory, result.timed_out, result.exit_code) == (True, False, 137)


def test_shared_pages_are_counted_once() -> None:
    attempt = (
        "import os, time\nheld = bytearray(b'x') * (60 << 20)\nfor _ in range(8): os.fork() or time.sleep(1)\nprint(1)"
    )
    result = run_program(attempt, limits=replace(PROGRAM_LIMITS, total_memory=256 << 20))
    assert (result.stdout, result.out_of_memory) == ("1\n", False)


@pytest.mark.parametrize("directory", [".", "/tmp", "/dev/shm"])
def test_the_disk_is_not_filled(directory: str) -> None:
    attempt = f"""
import os
try:
    for number in range(1000):
        held = open(os.path.join({directory!r}, str(number)), "wb")
        held.write(bytes(1 << 20)); held.flush()
        if number % 2: os.unlink(held.name); globals()[f"held{{number}}"] = held
except OSError as error: print(number, error.errno)
"""
    number, error = run_program(attempt).stdout.split()
    assert int(number) <= 33
    assert error == "28", "ENOSPC"


def test_many_empty_files_are_not_endless() -> None:
    attempt = "n = 0\ntry:\n    while True: open(str(n), 'x').close(); n += 1\nexcept OSError as e: print(n, e.errno)"
    number, error = run_program(attempt).stdout.split()
    assert int(number) < 20_001
    assert error == "28"


def test_one_file_is_not_endless() -> None:
    attempt = """
file = open("f", "wb")
try:
    while True: file.write(bytes(1 << 20)); file.flush()
except OSError as error: print(error.errno)
"""
    assert run_program(attempt).stdout == "27\n", "EFBIG"


@pytest.mark.parametrize("target", ["stdout", "stderr"])
def test_endless_output(target: str) -> None:
    started = time.monotonic()
    result = run_program(f"import sys\nwhile True: sys.{target}.write('flood' * 1000)", timeout=1)
    assert result.timed_out
    assert result.truncated
    assert len(getattr(result, target)) <= PROGRAM_LIMITS.output
    assert time.monotonic() - started < 15


def test_a_program_that_ignores_every_signal() -> None:
    attempt = """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
"""
    assert run_program(attempt, timeout=1).timed_out
    cpu = run_program(attempt, timeout=30, limits=replace(PROGRAM_LIMITS, cpu_seconds=1))
    assert (cpu.timed_out, cpu.exit_code) == (False, 137)


def test_an_input_that_nobody_reads() -> None:
    assert run_program("print('done')", stdin="x" * (4 << 20)).stdout == "done\n"


# -- secrets, and other cases ---------------------------------------------------------------------------------------


def test_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    attempt = """
import glob, os
print(dict(os.environ))
for path in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline"):
    try: print(open(path, errors="replace").read())
    except OSError: pass
"""
    assert "hf_secret" in outside(attempt)
    zygote = Zygote()  # started while the secret is there
    try:
        job: dict[str, Any] = {"command": None, "files": {"main.py": attempt}, "limits": PROGRAM_LIMITS.rlimits()}
        outcome = zygote.run(job | {"disk": 1 << 20, "total_memory": 1 << 30}, b"", 10, 1 << 20)
    finally:
        zygote.close()
    assert outcome.exit_code == 0
    assert b"hf_secret" not in outcome.stdout


SEARCH = """
found = 0
for line in open("/proc/self/maps"):
    span, mode = line.split()[:2]
    if "r" not in mode or "[v" in line: continue
    begin, end = (int(part, 16) for part in span.split("-"))
    with open("/proc/self/mem", "rb") as memory:
        memory.seek(begin)
        found += memory.read(end - begin).count(b"the-answer" + b"-of-case-1")
print(found)
"""


def test_no_case_is_in_the_memory_of_the_next() -> None:
    """It is forked from a process that has never read one; and what is compared never leaves the trainer."""
    holds = f"held = [f'the-answer-of-case-{{n % 2}}' for n in range(2000)]\n{SEARCH}"
    assert int(run_program(holds).stdout) >= 1000, "the search finds it where it is"
    for _ in range(2 * pool(True).size):
        run_program(holds)
        assert int(run_program(SEARCH).stdout) < 10, "its own few copies"


def test_keys_do_not_outlive_a_case() -> None:
    attempt = """
import ctypes, platform
number = {"x86_64": 248, "aarch64": 217}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)
print(libc.syscall(number, b"user", b"note", b"for the next", 12, -3), ctypes.get_errno())
"""
    assert run_program(attempt).stdout == "-1 1\n"


def test_a_case_does_not_change_the_next() -> None:
    vandal = """
import builtins, json, math, os, sys, time
builtins.print = builtins.len = math.sqrt = json.dumps = None
sys.modules["random"] = None
sys.setrecursionlimit(50)
os.environ["PATH"] = "/tmp"
os.umask(0o777)
for directory in ("/tmp", "/workdir", "/dev/shm"):
    open(directory + "/sitecustomize.py", "w").write("raise SystemExit(1)")
os.chmod("/tmp", 0)
os.closerange(0, 100)
"""
    probe = (
        "import os, random, sys, math; print(len('ab'), math.sqrt(4), sys.getrecursionlimit(), os.environ['PATH'][:4])"
    )
    clean = run_program(probe).stdout
    for _ in range(2 * pool(True).size):
        run_program(vandal)
        assert run_program(probe).stdout == clean == "2 2.0 1000 /usr\n"


def test_a_case_cannot_speak_for_the_zygote() -> None:
    """It holds no descriptor but its own three, so it can forge neither the answer nor the status."""
    attempt = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd')))"
    assert run_program(attempt).stdout == "[0, 1, 2, 3]\n", "3 is the listing's own"
    forger = """
import os
for descriptor in range(3, 1000):
    try: os.write(descriptor, b"x\\0m")
    except OSError: pass
raise SystemExit(9)
"""
    result = run_program(forger)
    assert (result.exit_code, result.out_of_memory) == (9, False)


def test_two_cases_at_one_time_do_not_meet() -> None:
    from concurrent.futures import ThreadPoolExecutor

    writer = """
import os, socket, time
open("/tmp/note", "w").write("x")
server = socket.socket(socket.AF_UNIX)
server.bind("\\0note")
server.listen()
time.sleep(2)
"""
    reader = """
import os, socket
try: socket.socket(socket.AF_UNIX).connect("\\0note"); print("met")
except OSError: print("alone")
print(os.listdir("/tmp"), [n for n in os.listdir("/proc") if n.isdigit()])
"""
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(run_program, writer)
        time.sleep(0.7)
        read: SandboxResult = threads.submit(run_program, reader).result()
        assert writing.result().exit_code == 0
    assert read.stdout == "alone\n[] ['1', '2']\n"


def test_a_killed_trainer_leaves_nothing() -> None:
    source = (
        "from agentforge.environments.sandbox.sandbox import run_command\n"
        "import sys; print('up', flush=True); run_command('exec sleep 87654', timeout=100)"
    )
    trainer = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    assert trainer.stdout is not None
    trainer.stdout.readline()
    deadline = time.monotonic() + 30
    while not processes("87654") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes("87654"), "it runs"
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    while processes("87654") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes("87654") == []
