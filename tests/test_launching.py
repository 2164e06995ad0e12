"""Processes that are started together: signals and exit codes pass through, and none is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentforge.errors import UserError
from agentforge.launching import Node, launch

ROOT = Path(__file__).parents[1]
Begin = Callable[[str], subprocess.Popen[bytes]]
# Writes what it was given; counts the signals that it gets until it has two, or ends in the way of its rank.
WORKER = """
import os, pathlib, signal, sys, time
sys.path.insert(0, sys.argv[3])
from agentforge.launching import follow_launcher
here, mode, rank = pathlib.Path(sys.argv[1]), sys.argv[2], os.environ["RANK"]
(here / f"env-{rank}").write_text(" ".join(os.environ[name] for name in (
    "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")))
got = []
def count(number, frame):
    got.append(number)
    (here / f"signals-{rank}").write_text(" ".join(map(str, got)))
    if mode == "stubborn" and len(got) < 3 or mode == "first" and len(got) < 1:
        return
    sys.exit(75)
signal.signal(signal.SIGTERM, count)
signal.signal(signal.SIGINT, count)
follow_launcher()
if mode == "refuse" and rank == "1":
    print("a sentence of process 1", file=sys.stderr)
    sys.exit(3)
if mode == "killed" and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
(here / f"pid-{rank}").write_text(str(os.getpid()))
if mode == "fine":
    sys.exit(0)
while True:
    time.sleep(0.05)
"""
LAUNCHER = """
import sys
from agentforge.launching import launch
sys.exit(launch(sys.argv[1:], 2))
"""


def command(directory: Path, mode: str) -> list[str]:
    (directory / "worker.py").write_text(WORKER)
    return [sys.executable, str(directory / "worker.py"), str(directory), mode, str(ROOT)]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Return a function that starts a launcher of two processes and waits until both are there."""
    launchers = []

    def started(mode: str) -> subprocess.Popen[bytes]:
        launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, *command(tmp_path, mode)], cwd=ROOT)
        launchers.append(launcher)
        wait_for(lambda: all((tmp_path / f"pid-{rank}").is_file() for rank in (0, 1)))
        return launcher

    yield started
    for launcher in launchers:  # of a test that has failed; their processes follow them
        launcher.kill()
        launcher.wait()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def signals(directory: Path, rank: int) -> int:
    path = directory / f"signals-{rank}"
    return len(path.read_text().split()) if path.is_file() else 0


def alive(directory: Path) -> list[int]:
    found = []
    for rank in (0, 1):
        stat = Path("/proc", (directory / f"pid-{rank}").read_text(), "stat")
        if stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            found.append(rank)
    return found


def test_each_process_learns_who_it_is(tmp_path: Path) -> None:
    assert launch(command(tmp_path, "fine"), 2) == 0
    environments = [(tmp_path / f"env-{rank}").read_text().split() for rank in (0, 1)]
    assert [e[:4] for e in environments] == [["2", "0", "2", "127.0.0.1"], ["2", "1", "2", "127.0.0.1"]]
    assert environments[0][4:] == environments[1][4:]


def test_programs_beside_this_python_are_found(tmp_path: Path) -> None:
    """DeepSpeed calls `ninja`, which pip has put there; the virtual environment need not be activated."""
    script = "import shutil, sys; sys.exit(shutil.which('python') != sys.argv[1])"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        here = str(Path(sys.executable).with_name("python"))
        assert launch([sys.executable, "-c", script, here], 2) == 0


def test_ranks_go_on_from_node_to_node(tmp_path: Path) -> None:
    assert launch(command(tmp_path, "fine"), 2, Node(1, "10.0.0.7", 4321), nodes=3) == 0
    assert {path.name for path in tmp_path.glob("env-*")} == {"env-2", "env-3"}
    assert (tmp_path / "env-3").read_text().split()[:5] == ["6", "1", "2", "10.0.0.7", "4321"]


def test_the_exit_code_and_the_words_are_those_of_the_process_that_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentforge.launching.AFTER_REFUSAL", 0.5)
        assert launch(command(tmp_path, "refuse"), 2) == 3
    assert time.monotonic() - began < 30
    assert "[process 1] a sentence of process 1" in capfd.readouterr().err
    assert not Path("/proc", (tmp_path / "pid-0").read_text()).exists()


def test_a_killed_process_ends_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentforge.launching.AFTER_CRASH", 0.5)
        assert launch(command(tmp_path, "killed"), 2) == 128 + signal.SIGKILL
    assert "process 1 was killed by SIGKILL" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_each_process_once(tmp_path: Path, begin: Begin, number: signal.Signals) -> None:
    launcher = begin("first")
    launcher.send_signal(number)
    assert launcher.wait(60) == 75
    assert [(tmp_path / f"signals-{rank}").read_text() for rank in (0, 1)] == [str(int(signal.SIGTERM))] * 2


def test_a_third_signal_waits_for_nobody(tmp_path: Path, begin: Begin) -> None:
    launcher = begin("stubborn")
    for times in (1, 2):
        launcher.send_signal(signal.SIGINT)
        wait_for(lambda: signals(tmp_path, 1) == times)  # noqa: B023
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(60) == 128 + signal.SIGKILL


def test_nothing_is_left_when_the_launcher_is_killed(tmp_path: Path, begin: Begin) -> None:
    launcher = begin("first")
    launcher.kill()
    launcher.wait()
    wait_for(lambda: alive(tmp_path) == [])


@pytest.mark.parametrize(
    ("rank", "rendezvous", "words"),
    [(0, "host", "must be HOST:PORT"), (0, "host:x", "must be HOST:PORT"), (2, "host:29500", "has 2 node")],
)
def test_a_wrong_address_is_refused(rank: int, rendezvous: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Node.parse(rank, rendezvous, 2)


def test_an_address_may_be_of_ipv6() -> None:
    assert Node.parse(1, "fe80::1:29500", 2) == Node(1, "fe80::1", 29500)
