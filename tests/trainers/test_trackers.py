"""TensorBoard, trackio and W&B, each for real: what they store has the names of `metrics.jsonl`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import integration_utils

from agentforge.artifacts import read_manifest
from agentforge.recipe.schema import Recipe
from agentforge.trainers.callbacks.metrics import MetricsCallback
from agentforge.trainers.trackers import EVENTS, trackers_beside
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tracker_files import (
    AXIS,
    installed,
    keep_below,
    names_of,
    tensorboard_scalars,
    tensorboard_texts,
    trackio_config,
    trackio_lines,
    trackio_runs,
    wandb_config,
    wandb_lines,
    wandb_runs,
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
    lines = trackio_lines(tmp_path, "tracked", recipe.trained.name)
    assert names_of(lines) == names | {AXIS}
    assert [line["loss"] for line in lines if "loss" in line] == losses
    assert trackio_config(tmp_path, "tracked")["recipe"] == recipe.model_dump(mode="json")


def test_wandb_offline(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_below(tmp_path, monkeypatch)
    recipe, names, losses = tracked(make_recipe, "wandb")
    lines = wandb_lines(tmp_path)
    assert names_of(lines) == names | {AXIS}
    assert [line["loss"] for line in lines if "loss" in line] == losses
    assert wandb_config(tmp_path)["recipe"] == recipe.model_dump(mode="json")
    (run,) = wandb_runs(tmp_path)
    assert (run.project, run.display_name) == ("tracked", recipe.trained.name)


def stopped_and_resumed(make_recipe: MakeRecipe, tracker: str) -> tuple[Recipe, list[dict[str, Any]]]:
    """Train with a tracker, die at step 7, and go on from the checkpoint of step 4; the last evaluation is apart."""
    if tracker not in installed():
        pytest.skip(f"{tracker} is not installed")
    recipe = make_recipe("tracked", "sft", report_to=[tracker], max_steps=10, logging_steps=1, save_steps=4)
    on_log = MetricsCallback.on_log

    def dying(self: MetricsCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise RuntimeError("the machine is gone")
        on_log(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsCallback, "on_log", dying)
        with pytest.raises(RuntimeError, match="the machine is gone"):
            train(recipe)
    return recipe, read_metrics(train(recipe) / "metrics.jsonl")


def whole_runtime(lines: list[dict[str, Any]], logged: list[float]) -> None:
    """What a tracker has of the last line is the time of both processes."""
    assert logged[-1] == lines[-1]["seconds"] > lines[5]["seconds"]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_a_resumed_run_goes_on_in_tensorboard(make_recipe: MakeRecipe) -> None:
    recipe, lines = stopped_and_resumed(make_recipe, "tensorboard")
    place = Path(recipe.output_dir) / "tensorboard" / recipe.trained.name
    found = tensorboard_scalars(place)
    assert set(found) == names_of(lines) - {"step"}
    assert found["loss"] == pytest.approx({line["step"]: line["loss"] for line in lines if "loss" in line})
    assert found["eval_loss"].keys() == {4, 8, 10}
    assert "name: tracked" in tensorboard_texts(place)["recipe/text_summary"]


def test_a_resumed_run_goes_on_in_trackio(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_below(tmp_path, monkeypatch)
    recipe, lines = stopped_and_resumed(make_recipe, "trackio")
    (logged,) = trackio_runs(tmp_path, "tracked", recipe.trained.name).values()
    assert [line[AXIS] for line in logged if "loss" in line] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10]
    whole_runtime(lines, [line["seconds"] for line in logged])
    train(recipe.model_copy(update={"seed": 7}), replace=True)
    runs = list(trackio_runs(tmp_path, "tracked", recipe.trained.name).values())
    assert len(runs) == 2, "another training of the name is another run"
    assert len([line for line in runs[1] if "loss" in line]) == 10


def test_a_resumed_run_goes_on_in_wandb(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_below(tmp_path, monkeypatch)
    _, lines = stopped_and_resumed(make_recipe, "wandb")
    assert len({run.run_id for run in wandb_runs(tmp_path)}) == 1 < len(wandb_runs(tmp_path))
    logged = wandb_lines(tmp_path)
    assert [line[AXIS] for line in logged if "loss" in line][-6:] == [5, 6, 7, 8, 9, 10]
    whole_runtime(lines, [line["seconds"] for line in logged])


class Scribbler(TrainerCallback):
    """A tracker that writes into the `output_dir` it is given at every event, as CodeCarbon's and DVCLive's do."""

    uploaded: ClassVar[list[str]] = []

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (Path(args.output_dir) / "emissions.csv").write_text(f"{time.time()}\n")

    on_train_begin = on_log = on_evaluate = on_train_end = on_init_end

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on_init_end(args, state, control)
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        assert (checkpoint / "model.safetensors").is_file(), "W&B and MLflow upload it"
        self.uploaded.append(checkpoint.name)


def test_a_tracker_that_writes_into_the_output_directory_writes_beside_the_artefact(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "kubeflow", Scribbler)  # it needs no package
    plain = read_manifest(train(make_recipe("plain", "pretrain", max_steps=8)))
    recipe = make_recipe("written", "pretrain", max_steps=8, report_to=["kubeflow"])
    manifest = read_manifest(train(recipe))
    assert set(manifest["files"]) == set(plain["files"])
    assert Scribbler.uploaded == ["checkpoint-4", "checkpoint-8"]
    assert [path.name for path in (tmp_path / "trackers" / recipe.trained.name).iterdir()] == ["emissions.csv"]
    assert not (tmp_path / "trackers" / make_recipe("plain").trained.name).exists()
    assert read_manifest(train(recipe, replace=True))["content"] == manifest["content"]


def test_every_tracker_of_transformers_is_given_another_directory(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("all", "pretrain")
    before = dict(integration_utils.INTEGRATION_TO_CALLBACK)
    args = TrainingArguments(output_dir=str(tmp_path / "artefact"), report_to=[])
    seen = []
    with trackers_beside(recipe):
        for name, kind in integration_utils.INTEGRATION_TO_CALLBACK.items():
            assert issubclass(kind, before[name])
            with pytest.MonkeyPatch.context() as patch:
                for event in EVENTS:
                    patch.setattr(before[name], event, lambda self, args, *_, **__: seen.append(args.output_dir))
                for event in EVENTS:
                    getattr(kind, event)(object(), args, None, None)
    assert len(seen) == len(before) * len(EVENTS)
    assert set(seen) == {str(tmp_path / "trackers" / recipe.trained.name)}
    assert before == integration_utils.INTEGRATION_TO_CALLBACK


def test_a_tracker_can_be_added_to_a_finished_run_and_leaves_no_trace(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("later", "sft", max_steps=2)
    made = train(recipe)
    before = (made / "manifest.json").stat().st_mtime_ns
    args = recipe.train.args | {"report_to": ["tensorboard"], "run_name": "another"}
    train(recipe.model_copy(update={"train": recipe.train.model_copy(update={"args": args})}))
    assert (made / "manifest.json").stat().st_mtime_ns == before, "it is the same training"
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    assert integration_utils.rewrite_logs({"loss": 1.0}) == {"train/loss": 1.0}, "transformers is as it was"
