"""A copy of what a user has: the recipes and the shipped data in an empty directory, and the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MICRO = Path(__file__).parent

Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "agentforge", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}


def make_project(directory: Path) -> Path:
    """Copy the micro recipes and link the shipped data into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "data").symlink_to(REPOSITORY / "data")
    for recipe in MICRO.glob("micro*.yaml"):
        shutil.copy(recipe, directory)
    return directory


def agentforge(directory: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one verb in ``directory``; with ``check`` a failure shows what it printed."""
    # pytest's own timeout bounds it, which `make faults` raises.
    run = subprocess.run(command(*words), cwd=directory, env=environment(), capture_output=True, text=True)
    if check and run.returncode:
        pytest.fail(f"agentforge {' '.join(words)} exited {run.returncode}\n{run.stdout}\n{run.stderr}")
    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the micro recipe has run from start to end, once for all tests."""
    directory = make_project(tmp_path_factory.mktemp("finished") / "project")
    gguf_ready = _gguf_ready()
    if gguf_ready:
        agentforge(directory, "run", "micro.yaml")
    else:
        for words in (["prepare", "micro_base.yaml"], ["train", "micro_base.yaml"], ["prepare", "micro.yaml"]):
            agentforge(directory, *words)
        for words in (["train", "micro.yaml"], ["evaluate", "micro.yaml", "--model", "lora"], ["merge", "micro.yaml"]):
            agentforge(directory, *words)
    return directory


def _gguf_ready() -> bool:
    import importlib.util

    return importlib.util.find_spec("llama_cpp") is not None
