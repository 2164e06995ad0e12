"""kill -9 at random moments: running the same command again finishes, and the result is the one of an undisturbed run.

AGENTFORGE_KILLS sets how many moments are tried per stage; the default keeps the suite short.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from agentforge.artifacts import read_manifest
from tests.end_to_end.conftest import agentforge, command, environment, make_project

KILLS = int(os.environ.get("AGENTFORGE_KILLS", "2"))
MADE = {
    "prepare": ["Micro-v1.0.0-data"],
    "train": ["Micro-v1.0.0-lora"],
    "merge": ["Micro-v1.0.0-merged"],
    "gguf": ["Micro-v1.0.0-q8", "Micro-v1.0.0-q4km"],
}
ORDER = list(MADE)

pytestmark = pytest.mark.end_to_end


@pytest.mark.timeout(600)
@pytest.mark.parametrize("verb", [pytest.param(v, marks=pytest.mark.gguf) if v == "gguf" else v for v in ORDER])
def test_a_killed_stage_run_again_gives_the_same_bytes(verb: str, finished: Path, tmp_path: Path) -> None:
    if verb == "gguf":
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make gguf-setup)")
    project = with_inputs_of(verb, finished, tmp_path / "project")
    moments = random.Random(f"{verb} 1")
    longest = seconds_of(verb, finished)
    for _ in range(KILLS):
        kill_after(project, verb, moments.uniform(0.5, 1.0) * longest if KILLS == 1 else moments.uniform(0, longest))
        for name in MADE[verb]:  # complete or not at all
            target = project / "runs/micro" / name
            assert not target.exists() or read_manifest(target)["files"]
    agentforge(project, verb, "micro.yaml")
    for name in MADE[verb]:
        again, once = (read_manifest(place / "runs/micro" / name) for place in (project, finished))
        assert comparable(again["files"]) == comparable(once["files"])
        assert not list((project / "runs/micro").glob(f".{name}*"))


def with_inputs_of(verb: str, finished: Path, project: Path) -> Path:
    """A project in which everything before ``verb`` is done."""
    make_project(project)
    earlier = [name for before in ORDER[: ORDER.index(verb)] for name in MADE[before]]
    for name in ["MicroBase-v1.0.0-data", "MicroBase-v1.0.0-model", *earlier]:
        shutil.copytree(finished / "runs/micro" / name, project / "runs/micro" / name)
    return project


def seconds_of(verb: str, finished: Path) -> float:
    """How long the stage took undisturbed, with the imports before it."""
    imports = 6.0
    return imports + sum(float(read_manifest(finished / "runs/micro" / name)["seconds"]) for name in MADE[verb])


def kill_after(project: Path, verb: str, seconds: float) -> None:
    process = subprocess.Popen(
        command(verb, "micro.yaml"),
        cwd=project,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def comparable(files: dict[str, str]) -> dict[str, str]:
    """Everything but the records of times (seconds and tokens per second)."""
    times = {"metrics.jsonl", "training.json"}
    return {path: digest for path, digest in files.items() if Path(path).name not in times}
