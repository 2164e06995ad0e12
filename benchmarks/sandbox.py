"""A Python program of one line with one line of input: bare, in bubblewrap, in our sandbox cold and warm.

    python -m benchmarks.sandbox

All ways take turns in one run, so that a busy machine slows them alike: read the ratios. The last column is how many a
second as many threads as there are cores get done. bubblewrap (apt install bubblewrap) is optional. A zygote inside of
it is measured only where its cases can be isolated, which is not where root runs this.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from agentforge.environments.sandbox.pool import INTERPRETER, LAUNCHER, PROGRAMS, PYTHON, Zygote, ZygoteFailed
from agentforge.environments.sandbox.sandbox import PROGRAM_LIMITS, isolation, run_program

PACKAGE, IN_BWRAP = LAUNCHER.parents[2], Path(__file__).with_name("sandbox_in_bwrap.py")
ROUNDS = 60
THROUGHPUT_SECONDS = 5.0
SOURCE = "print(int(input()) + 1)"
GIVEN, EXPECTED = "41\n", "42\n"


def bare(command: list[str]) -> None:
    run = subprocess.run(command, input=GIVEN, capture_output=True, text=True, check=True)
    assert run.stdout == EXPECTED


def bubblewrap(main: Path) -> list[str]:
    """bubblewrap as others call it: everything unshared, programs read-only, a /tmp of its own."""
    return [*_bwrap(), "--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", str(main), "/main.py", *python("/main.py")]


def _bwrap() -> list[str]:
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", "--proc", "/proc"]
    for path in (path for path in (*PROGRAMS, *INTERPRETER) if os.path.exists(path)):
        command += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
    return command


def python(path: str) -> list[str]:
    return [PYTHON, "-I", "-S", path]


class Boxed(Zygote):
    """A zygote in a world that bubblewrap has made. Its cases are isolated as ever: that is done after a fork, and
    bubblewrap can only start programs."""

    def _command(self, setup: dict[str, Any]) -> list[str]:
        shown = [option for path in (PACKAGE, IN_BWRAP) for option in ("--ro-bind", str(path), str(path))]
        capable = ["--cap-add", "ALL", "--uid", "65534", "--gid", "65534"]  # in there: to mount for its cases
        directories = ["--dev", "/dev", "--dir", "/tmp", "--dir", "/workdir"]
        launched = [*super()._command(setup)[:-2], str(IN_BWRAP), json.dumps(setup)]
        return [*_bwrap(), *capable, *directories, *shown, *launched]


def in_zygote(zygote: Zygote) -> None:
    """One case."""
    job = {"command": None, "files": {"main.py": SOURCE}, "limits": PROGRAM_LIMITS.rlimits()}
    outcome = zygote.run(job | {"disk": 1 << 20, "total_memory": 1 << 30}, GIVEN.encode(), 10, 1000)
    assert outcome.stdout.decode() == EXPECTED, outcome.status


def cold(kind: type[Zygote]) -> None:
    """A zygote for one case alone."""
    zygote = kind()
    try:
        in_zygote(zygote)
    finally:
        zygote.close()


def boxed() -> tuple[dict[str, Callable[[], None]], str]:
    """Return the ways of a zygote inside of bubblewrap, or none and why there is none here."""
    try:
        cold(Boxed)
    except (AssertionError, ZygoteFailed) as error:
        return {}, f"a zygote inside of bubblewrap cannot run cases here: {str(error).splitlines()[0]}"
    idle: SimpleQueue[Zygote] = SimpleQueue()
    for _ in os.sched_getaffinity(0):
        idle.put(Boxed())  # ends with this process

    def again() -> None:
        zygote = idle.get()
        in_zygote(zygote)
        idle.put(zygote)

    return {"zygote in bubblewrap, cold": lambda: cold(Boxed), "zygote in bubblewrap, warm": again}, ""


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
        note = "bubblewrap is not installed"
        if shutil.which("bwrap"):
            ways["bubblewrap, each case"] = lambda: bare(bubblewrap(path))
            inside, note = boxed()
            ways |= inside
        ways |= {"ours, cold": lambda: cold(Zygote), "ours, warm": warm}
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
    print(f"{isolation()}\n" + (f"{note}\n" if note else ""))
    print(f"| way | ms, median | ms, least | over bare python | a second on {cores} cores |\n|---|---|---|---|---|")
    for name, times in taken.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.1f} | {min(times):.1f} | {median - base:+.1f} ms | {rates[name]:.0f} |")


if __name__ == "__main__":
    main()
