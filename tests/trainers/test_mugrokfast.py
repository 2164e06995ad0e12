"""`train.optimizer: {name: mugrokfast}` through the stage `train`: killed, in two processes, and refused."""

from __future__ import annotations

import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import read_manifest
from agentforge.errors import UserError
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.test_train import digest, processes, start, twin  # noqa: F401
from tests.trainers.tiny import figures
from tests.trainers.together import launch

OPTIMIZER = {"optimizer": {"name": "mugrokfast", "options": {"grokfast_lambda": 0.3, "aux_learning_rate": 1e-3}}}


def test_killed_and_run_again_it_has_the_same_bytes(
    make_recipe: MakeRecipe,
    processes: ForkServerContext,  # noqa: F811
) -> None:
    recipe = make_recipe("unbroken", "pretrain", OPTIMIZER, max_steps=12, save_steps=3)
    whole = train(recipe)
    victim = twin(recipe, "killed")
    process = start(processes, victim)
    while not (victim.trained.with_name(f".{victim.trained.name}.partial") / "checkpoint-6").is_dir():
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert digest(train(victim)) == digest(whole)
    assert figures(victim.trained) == figures(whole)


def test_two_processes_train_as_one_with_twice_the_batch(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 4, "save_steps": 100, "logging_steps": 1, "packing": False}
    one = train(make_recipe("one", "pretrain", OPTIMIZER, per_device_train_batch_size=4, **options))
    recipe = make_recipe("two", "pretrain", OPTIMIZER, per_device_train_batch_size=2, **options)
    finished = launch(recipe, tmp_path, "finish")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert read_manifest(recipe.trained)["metrics"]["processes"] == 2
    of_one, of_two = ([line["loss"] for line in figures(made) if "loss" in line] for made in (one, recipe.trained))
    assert of_two == pytest.approx(of_one, rel=1e-4)


def test_a_preset_gives_the_learning_rate_that_the_recipe_leaves_open(make_recipe: MakeRecipe) -> None:
    preset = {"optimizer": {"name": "mugrokfast", "options": {"preset": "phase6"}}}
    options = {"max_steps": 1, "logging_steps": 1, "save_steps": 100}
    recipe = make_recipe("preset", "pretrain", preset, **options)
    del recipe.train.args["learning_rate"]
    rates = [line["learning_rate"] for line in figures(train(recipe)) if "learning_rate" in line]
    assert rates == [1e-4]
    rates = [
        line["learning_rate"]
        for line in figures(train(make_recipe("own", "pretrain", preset, **options)))
        if "learning_rate" in line
    ]
    assert rates == [3e-3]


@pytest.mark.parametrize("launch", ["zero2", "zero3"])
def test_a_sharded_run_is_refused(make_recipe: MakeRecipe, launch: str) -> None:
    section = OPTIMIZER | {"launch": launch, "processes": 2}
    with pytest.raises(UserError, match="mugrokfast orthogonalises whole matrices, but with ZeRO"):
        train(make_recipe("sharded", "pretrain", section, max_steps=1))
