"""TensorBoard, trackio and W&B, each for real: what they store has the names of `metrics.jsonl`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers.integrations import integration_utils

from agentforge.artifacts import read_manifest
from agentforge.recipe.schema import Recipe
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tracker_files import (
    AXIS,
    installed,
    keep_below,
    names_of,
    tensorboard_scalars,
    trackio_lines,
    wandb_lines,
)


def tracked(make_recipe: MakeRecipe, tracker: str) -> tuple[Recipe, set[str], list[float]]:
    """Train with a tracker; return the recipe, and the names and losses of its log."""
    if tracker not in installed():
        pytest.skip(f"{tracker} is not installed")
    recipe = make_recipe("tracked", "sft", report_to=[tracker], max_steps=4, logging_steps=1)
    lines = read_metrics(train(recipe) / "metrics.jsonl")
    names = names_of(lines) - {"step"}
    assert {"loss", "eval_loss", "grad_norm", "tokens_per_second", "mem_allocated"} <= names
    return recipe, names, [line["loss"] for line in lines if "loss" in line]


def test_tensorboard(make_recipe: MakeRecipe) -> None:
    recipe, names, losses = tracked(make_recipe, "tensorboard")
    found = tensorboard_scalars(Path(recipe.output_dir) / "tensorboard" / recipe.trained.name)
    assert set(found) == names
    assert found["loss"] == pytest.approx(dict(enumerate(losses, 1)))
    assert not any("tfevents" in name for name in read_manifest(recipe.trained)["files"])


def test_trackio(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_below(tmp_path, monkeypatch)
    recipe, names, losses = tracked(make_recipe, "trackio")
    lines = trackio_lines(tmp_path, "agentforge", recipe.trained.name)
    assert names_of(lines) == names | {AXIS}
    assert [line["loss"] for line in lines if "loss" in line] == losses


def test_wandb_offline(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_below(tmp_path, monkeypatch)
    _, names, losses = tracked(make_recipe, "wandb")
    lines = wandb_lines(tmp_path)
    assert names_of(lines) == names | {AXIS}
    assert [line["loss"] for line in lines if "loss" in line] == losses


def test_a_tracker_can_be_added_to_a_finished_run_and_leaves_no_trace(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("later", "sft", max_steps=2)
    made = train(recipe)
    before = (made / "manifest.json").stat().st_mtime_ns
    args = recipe.train.args | {"report_to": ["tensorboard"], "run_name": "another"}
    train(recipe.model_copy(update={"train": recipe.train.model_copy(update={"args": args})}))
    assert (made / "manifest.json").stat().st_mtime_ns == before, "it is the same training"
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ and "WANDB_PROJECT" not in os.environ
    assert integration_utils.rewrite_logs({"loss": 1.0}) == {"train/loss": 1.0}, "transformers is as it was"
