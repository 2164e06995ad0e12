"""TensorBoard, trackio and W&B, each for real: what they store has the names of `metrics.jsonl`."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers.integrations import integration_utils

from agentforge.artifacts import read_manifest
from agentforge.recipe.schema import Recipe
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.trainers.conftest import MakeRecipe

AXIS = "train/global_step"


def tracked(make_recipe: MakeRecipe, tracker: str) -> tuple[Recipe, set[str]]:
    """Train with a tracker; return the recipe and the names in its log."""
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    recipe = make_recipe("tracked", "sft", report_to=[tracker], max_steps=4, logging_steps=1)
    made = train(recipe)
    names = {name for line in read_metrics(made / "metrics.jsonl") for name in line} - {"step"}
    assert {"loss", "eval_loss", "grad_norm", "tokens_per_second", "mem_allocated"} <= names
    return recipe, names


def test_tensorboard(make_recipe: MakeRecipe) -> None:
    recipe, names = tracked(make_recipe, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = Path(recipe.output_dir) / "tensorboard" / recipe.trained.name
    events = EventAccumulator(str(place))
    events.Reload()
    assert set(events.Tags()["scalars"]) == names
    lines = {line["step"]: line for line in read_metrics(recipe.trained / "metrics.jsonl") if "loss" in line}
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx({step: line["loss"] for step, line in lines.items()})
    assert not any("tfevents" in name for name in read_manifest(recipe.trained)["files"])


def test_trackio(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    # trackio reads TRACKIO_DIR when it is imported, and something may have imported it before
    for module in [module for name, module in sys.modules.items() if name.startswith("trackio")]:
        if hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    recipe, names = tracked(make_recipe, "trackio")
    (database,) = (tmp_path / "trackio").glob("*.db")
    assert database.stem.startswith("agentforge")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert {run for run, _ in rows} == {recipe.trained.name}
    found = [json.loads(metrics) for _, metrics in rows]
    assert {name for line in found for name in line} == names | {AXIS}
    losses = [line["loss"] for line in read_metrics(recipe.trained / "metrics.jsonl") if "loss" in line]
    assert [line["loss"] for line in found if "loss" in line] == losses


def test_wandb_offline(make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true", "X_DISABLE_STATS": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    recipe, names = tracked(make_recipe, "wandb")
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    lines = history(file)
    assert {name for line in lines for name in line if not name.startswith("_")} == names | {AXIS}
    losses = [line["loss"] for line in read_metrics(recipe.trained / "metrics.jsonl") if "loss" in line]
    assert [line["loss"] for line in lines if "loss" in line] == losses


def history(file: Path) -> list[dict[str, Any]]:
    """Return the logged lines of an offline run: LevelDB's log format behind seven bytes of W&B's own."""
    from wandb.proto import wandb_internal_pb2

    data, place, pieces, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        # A block has 32 KiB; a header of checksum, length and type does not cross into the next.
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        pieces += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record.FromString(pieces)
            pieces = b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                found.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return found


def test_a_tracker_can_be_added_to_a_finished_run_and_leaves_no_trace(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("later", "sft", max_steps=2)
    made = train(recipe)
    before = (made / "manifest.json").stat().st_mtime_ns
    args = recipe.train.args | {"report_to": ["tensorboard"], "run_name": "another"}
    train(recipe.model_copy(update={"train": recipe.train.model_copy(update={"args": args})}))
    assert (made / "manifest.json").stat().st_mtime_ns == before, "it is the same training"
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ and "WANDB_PROJECT" not in os.environ
    assert integration_utils.rewrite_logs({"loss": 1.0}) == {"train/loss": 1.0}, "transformers is as it was"
