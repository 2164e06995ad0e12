"""A process that stops answering ends the run after a stated time, with a sentence; the next start loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentforge.artifacts import read_manifest
from agentforge.recipe.schema import Recipe
from agentforge.trainers.callbacks import watchdog
from agentforge.trainers.callbacks.watchdog import WatchdogCallback
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import figures

SECONDS = 6.0
# Stops the second process in the middle of a step, as a lost GPU or a dead machine does: it holds its connections.
HANGING = """
import os, signal, sys
from agentforge.recipe.schema import Recipe
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.train import train

original = LimitsCallback.on_step_end

def hanging(self, args, state, control, **kwargs):
    if state.global_step == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGSTOP)
    original(self, args, state, control, **kwargs)

if sys.argv[2] == "hang":
    LimitsCallback.on_step_end = hanging
train(Recipe.model_validate_json(open(sys.argv[1]).read()))
"""


def launch(recipe: Recipe, directory: Path, mode: str) -> subprocess.CompletedProcess[str]:
    (directory / "recipe.json").write_text(recipe.model_dump_json())
    (directory / "hanging.py").write_text(HANGING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [str(directory / "hanging.py"), str(directory / "recipe.json"), mode]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.fault("a process hangs", "train, SIGSTOP to one of two (gloo)", "the losses of one process")
def test_a_hanging_process_ends_the_run_and_the_next_one_goes_on(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "packing": False}
    one = train(make_recipe("one", "sft", per_device_train_batch_size=4, **options))
    recipe = make_recipe("two", "sft", {"watchdog_minutes": SECONDS / 60}, per_device_train_batch_size=2, **options)
    hung = launch(recipe, tmp_path, "hang")
    assert hung.returncode != 0
    said = (
        "agentforge: process 0 of 2 has not got on for 6 seconds (train.watchdog_minutes), after step 2: the one that"
    )
    assert said in hung.stderr, hung.stderr[-3000:]
    assert "process 1 of 2 has not" not in hung.stderr, "the one that hangs says nothing"
    assert "exitcode  : 75" in hung.stderr
    finished = launch(recipe, tmp_path, "finish")
    assert finished.returncode == 0, finished.stderr[-3000:]
    metrics = read_manifest(recipe.trained)["metrics"]
    assert metrics["processes"] == 2 and metrics["tokens"] == read_manifest(one)["metrics"]["tokens"]
    of_one, of_two = ([line["loss"] for line in figures(made) if "loss" in line] for made in (one, recipe.trained))
    assert of_two == pytest.approx(of_one, rel=1e-4) and len(of_two) == 4


@pytest.mark.parametrize("suspended", [True, False])
def test_a_process_that_was_suspended_itself_has_not_hung(monkeypatch: pytest.MonkeyPatch, suspended: bool) -> None:
    """Between two of its looks a thousand seconds pass, once; or it looks again and again, and nothing gets on."""
    ended: list[int] = []
    jumps = iter([0.0, 1000.0]) if suspended else iter(range(10**6))
    clock = SimpleNamespace(monotonic=lambda: next(jumps, 1000.0))
    monkeypatch.setattr(watchdog, "LOOKS", 0.01)
    monkeypatch.setattr(watchdog, "time", clock)
    monkeypatch.setattr(watchdog, "_end", lambda seconds, step: ended.append(step))
    with WatchdogCallback(0.2 / 60).watching():
        until = time.monotonic() + (0.5 if suspended else 10)
        while not ended and time.monotonic() < until:
            time.sleep(0.01)
    assert bool(ended) != suspended


def test_it_watches_nothing_where_it_is_switched_off() -> None:
    with WatchdogCallback(None).watching():
        pass
