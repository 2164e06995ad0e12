"""A Python program of one line with one line of input: bare, in bubblewrap, in our sandbox cold and warm.

    python -m benchmarks.sandbox

All ways take turns in one run, so that a busy machine slows them alike: read the ratios. The last column is how many a
second as many threads as there are cores get done. bubblewrap (apt install bubblewrap) is optional.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentforge.environments.sandbox.pool import INTERPRETER, PROGRAMS, PYTHON, Zygote
from agentforge.environments.sandbox.sandbox import PROGRAM_LIMITS, isolation, run_program

ROUNDS = 60
THROUGHPUT_SECONDS = 5.0
SOURCE = "print(int(input()) + 1)"
GIVEN, EXPECTED = "41\n", "42\n"


def bare(command: list[str]) -> None:
    run = subprocess.run(command, input=GIVEN, capture_output=True, text=True, check=True)
    assert run.stdout == EXPECTED


def bubblewrap(main: Path) -> list[str]:
    """bubblewrap as others call it: everything unshared, programs read-only, a /tmp of its own."""
    shown = [
        option for path in (*PROGRAMS, *INTERPRETER) if Path(path).exists() for option in ("--ro-bind", path, path)
    ]
    isolated = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--proc", "/proc", "--dev", "/dev"]
    return ["bwrap", *isolated, *shown, "--tmpfs", "/tmp", "--ro-bind", str(main), "/main.py", *python("/main.py")]


def python(path: str) -> list[str]:
    return [PYTHON, "-I", "-S", path]


def cold() -> None:
    """A zygote for one case alone."""
    zygote = Zygote()
    job = {"command": None, "files": {"main.py": SOURCE}, "limits": PROGRAM_LIMITS.rlimits()}
    outcome = zygote.run(job | {"disk": 1 << 20, "total_memory": 1 << 30}, GIVEN.encode(), 10, 1000)
    zygote.close()
    assert outcome.stdout.decode() == EXPECTED


def warm() -> None:
    assert run_program(SOURCE, GIVEN).stdout == EXPECTED


def a_second(way: Callable[[], None], threads: int) -> float:
    """Return how many cases a second ``threads`` get done."""
    deadline = time.perf_counter() + THROUGHPUT_SECONDS
    started = time.perf_counter()

    def work(_: int) -> int:
        done = 0
        while time.perf_counter() < deadline:
            way()
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (time.perf_counter() - started)


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "main.py"
        path.write_text(SOURCE, encoding="utf-8")
        ways: dict[str, Callable[[], None]] = {"python, no sandbox": lambda: bare(python(str(path)))}
        if shutil.which("bwrap"):
            ways["bubblewrap"] = lambda: bare(bubblewrap(path))
        ways |= {"ours, cold": cold, "ours, warm": warm}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        for _ in range(ROUNDS):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                taken[name].append((time.perf_counter() - started) * 1000)
        rates = {name: a_second(way, cores) for name, way in ways.items()}
    base = statistics.median(taken["python, no sandbox"])
    print(f"{isolation()}\n")
    print(f"| way | ms, median | ms, least | over bare python | a second on {cores} cores |\n|---|---|---|---|---|")
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.1f} | {min(times):.1f} | {median - base:+.1f} ms | {rates[name]:.0f} |")


if __name__ == "__main__":
    main()
