"""Ctrl-C, SIGTERM and a lost terminal: one line, exit code 75, and nothing half-made is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# Says when it is ready; then works with two processes until a signal comes.
WORK = """
import os, sys, time
from pathlib import Path
from agentforge.stopping import stoppable

def slow(number):
    time.sleep(0.05)
    return number

with stoppable():
    from agentforge.artifacts import stage_directory
    from agentforge.data.parallel_map import ordered_map
    with stage_directory(Path("a"), stage="test", recipe={}) as work:
        (work.path / "half").write_text("x")
        for number in ordered_map(slow, range(10_000), 2):
            if number == 2:
                print("ready", flush=True)
"""
# An import that takes long; the handlers are there before it begins.
IMPORT = """
import builtins, runpy, sys, time
real = builtins.__import__
def slow(name, *rest, **more):
    if name == "typer":
        print("ready", flush=True)
        time.sleep(20)
    return real(name, *rest, **more)
builtins.__import__ = slow
sys.argv = ["agentforge", "show", "aj"]
runpy.run_module("agentforge", run_name="__main__")
"""
WRAPPED = """
from agentforge.stopping import stoppable
with stoppable():
    try:
        print("ready", flush=True)
        import time
        time.sleep(20)
    except KeyboardInterrupt as error:
        raise ImportError("an extension module failed to initialise") from error
"""


def stop(program: str, number: signal.Signals, cwd: Path, *, group: bool = False) -> tuple[int, str]:
    """Run a program, send it a signal when it is ready, and return its exit code and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (os.killpg if group else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=30)
    return process.returncode, said


@pytest.mark.fault("SIGTERM, SIGHUP, Ctrl-C", "any stage", "nothing half-made stays")
@pytest.mark.parametrize(
    ("number", "name", "group"),
    [
        (signal.SIGINT, "Ctrl-C", True),  # a terminal signals the workers too
        (signal.SIGTERM, "SIGTERM", False),
        (signal.SIGTERM, "SIGTERM", True),
        (signal.SIGHUP, "SIGHUP", False),
    ],
)
def test_a_stopped_stage_leaves_nothing_and_says_one_line(
    tmp_path: Path, number: signal.Signals, name: str, group: bool
) -> None:
    line = f"agentforge: stopped by {name}; run the same command again to continue\n"
    assert stop(WORK, number, tmp_path, group=group) == (75, line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
@pytest.mark.parametrize("program", [IMPORT, WRAPPED], ids=["import", "wrapped"])
def test_a_signal_during_the_imports_is_one_line_too(
    tmp_path: Path, program: str, number: signal.Signals, name: str
) -> None:
    code, said = stop(program, number, tmp_path)
    assert (code, said) == (75, f"agentforge: stopped by {name}; run the same command again to continue\n")
