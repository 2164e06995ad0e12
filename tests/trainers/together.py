"""Trainings in several processes of this machine, started by agentforge's own launcher, as `agentforge train` does."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from agentforge.recipe.schema import Recipe
from tests.trainers.tiny import figures

NO_DEEPSPEED = pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="no DeepSpeed")

ROOT = Path(__file__).parents[2]
LAUNCHER = """
import sys
from agentforge.launching import launch
sys.exit(launch(sys.argv[1:], 2))
"""
# FSDP 2 shards over gloo as well as over NCCL; only accelerate turns to DDP where the device is a CPU. Told that it is
# not, it runs the same code as on GPUs.
FSDP_ON_CPUS = """
from accelerate import state
from accelerate.utils import DistributedType
made = state.PartialState.__init__

def on_cpus(self, *args, **kwargs):
    made(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

state.PartialState.__init__ = on_cpus
"""
# Trains each recipe; the second process is hurt on the way, if it is to be.
WORKER = """
import logging, os, signal, sys
from agentforge.errors import UserError
from agentforge.recipe.schema import Recipe
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.train import train

logging.basicConfig(level=logging.INFO, format="%(message)s")
mode, paths = sys.argv[1], sys.argv[2:]
original = LimitsCallback.on_step_end

def hurt(self, args, state, control, **kwargs):
    if os.environ["RANK"] == "1" and (mode, state.global_step) == ("stop", 1):
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, args, state, control, **kwargs)
    if os.environ["RANK"] == "1" and (mode, state.global_step) == ("kill", 3):
        os.kill(os.getpid(), signal.SIGKILL)

LimitsCallback.on_step_end = hurt
for path in paths:
    try:
        train(Recipe.model_validate_json(open(path).read()))
    except UserError as error:
        print(f"agentforge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
"""


def launch(
    recipe: Recipe | Sequence[Recipe], directory: Path, mode: str = "finish", before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Train in two processes and return how the launcher ended.

    Args:
        recipe: one, or several that the same processes train one after the other.
        directory: for the program and the recipes; its `configs` are looked into first.
        mode: ``stop`` sends SIGTERM to the second process in step 1, ``kill`` kills it after step 3.
        before: code that runs in each process first.
    """
    recipes = [recipe] if isinstance(recipe, Recipe) else list(recipe)
    files = [directory / f"{number}.json" for number in range(len(recipes))]
    for file, each in zip(files, recipes, strict=True):
        file.write_text(each.model_dump_json())
    return run_twice(before + WORKER, directory, mode, *map(str, files))


def run_twice(program: str, directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in two processes that know of one another, and return how the launcher ended.

    Args:
        program: its text.
        directory: for the program, which runs in it.
        words: its arguments.
    """
    (directory / "worker.py").write_text(program)
    return subprocess.run(
        [sys.executable, "-c", LAUNCHER, sys.executable, str(directory / "worker.py"), *words],
        env=environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=400,
    )


def write_two_gpus(directory: Path) -> None:
    """Write a hardware profile with two GPUs, `2xh200`, into a project's directory: FSDP 2 is refused on CPUs."""
    file = directory / "configs" / "hardware" / "2xh200.yaml"
    file.parent.mkdir(parents=True)
    file.write_text((ROOT / "configs" / "hardware" / "8xh200.yaml").read_text().replace("gpus: 8", "gpus: 2"))


def shared(recipe: Recipe, strategy: str) -> Recipe:
    """Return a recipe whose two processes share something."""
    wanted = {"launch": strategy, "processes": 2}
    hardware = "2xh200" if strategy == "fsdp2" else "cpu"
    return recipe.model_copy(update={"hardware": hardware, "train": recipe.train.model_copy(update=wanted)})


def assert_same(one: Path, two: Path, tolerance: float = 1e-5) -> None:
    """Compare every logged line of two runs, and the weights."""
    lines, found = figures(one), figures(two)
    assert [line["step"] for line in found] == [line["step"] for line in lines]
    for before, after in zip(lines, found, strict=True):
        names = before.keys() & {"loss", "eval_loss", "grad_norm", "tokens", "trained_tokens", "learning_rate"}
        # GRPO's loss is 0 but for rounding
        expected = pytest.approx({n: before[n] for n in names}, rel=tolerance, abs=1e-6)
        assert {n: after[n] for n in names} == expected
    name = "model.safetensors" if (one / "model.safetensors").is_file() else "adapter_model.safetensors"
    weights, others = load_file(one / name), load_file(two / name)
    assert weights.keys() == others.keys()
    assert all((weights[key] - others[key]).abs().max() < 1e-4 for key in weights)


def environment() -> dict[str, str]:
    """Return the environment of a child that imports this checkout."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
