"""`train.keep`: what stays beside the final model, and that no kill loses it or keeps it twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentforge.artifacts import read_manifest
from agentforge.errors import UserError
from agentforge.evaluation.evaluate import evaluate
from agentforge.models.locate_model import locate_model
from agentforge.recipe.schema import Evaluate, Recipe
from agentforge.trainers import kept_models
from agentforge.trainers import train as stage
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.kept_models import KeptModels
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import LORA, make_rows, write_prepared

KEEP = {"epochs": 1, "best": True}


def recipe_of(make_recipe: MakeRecipe, name: str, train: dict[str, Any] | None = None, **args: Any) -> Recipe:
    """Four steps an epoch, three epochs; the rate is so high that the last loss is not the lowest."""
    options: dict[str, Any] = {
        "max_steps": -1,
        "num_train_epochs": 3,
        "packing": False,
        "eval_steps": 2,
        "save_steps": 3,
        "learning_rate": 0.3,
        "lr_scheduler_type": "constant",
    }
    recipe = make_recipe(name, "sft", {"keep": KEEP, **(train or {})}, **(options | args))
    directory = recipe.artifact("data")
    if json.loads((directory / "manifest.json").read_text())["identity"]["recipe"]["rows"] != 8:
        for file in directory.rglob("*.json*"):
            file.unlink()
        write_prepared(directory, make_rows(8, 0), make_rows(4, 1))
    return recipe


def weights(directory: Path) -> str:
    (file,) = (file for name in ("model", "adapter_model") for file in directory.glob(f"{name}.safetensors"))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def kept(directory: Path) -> dict[str, Any]:
    """Every kept directory's weights and record."""
    return {
        path.parent.name: (weights(path.parent), json.loads(path.read_text()))
        for path in sorted(directory.glob("*/kept.json"))
    }


def test_each_epoch_and_the_best_are_models_of_their_own(make_recipe: MakeRecipe) -> None:
    recipe = recipe_of(make_recipe, "kept", {"ema": 0.6}, learning_rate=1.0)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "bfloat16"})})
    made = train(recipe)
    assert {path.name for path in made.iterdir() if path.is_dir()} == {"best", "epoch-1", "epoch-2", "epoch-3"}
    # the last epoch's model is the final one: the average, in the recipe's dtype
    assert weights(made / "epoch-3") == weights(made) != weights(made / "epoch-2")
    lines = [line for line in read_metrics(made / "metrics.jsonl") if "eval_loss" in line]
    lowest = min(lines, key=lambda line: (line["eval_loss"], line["step"]))
    record = json.loads((made / "best" / "kept.json").read_text())
    assert (record["step"], record["eval_loss"]) == (lowest["step"], lowest["eval_loss"])
    assert lowest["step"] < 12, "otherwise the best would be the last, and this test prove nothing"
    manifest = read_manifest(made)
    assert manifest["metrics"]["kept"]["best"] == record
    assert manifest["metrics"]["kept"]["epoch-2"] == {"step": 8, "epoch": 2}
    assert "best/model.safetensors" in manifest["files"]
    for name in ("best", "epoch-1"):
        model = AutoModelForCausalLM.from_pretrained(made / name)
        assert model.dtype == torch.bfloat16
        assert model.lm_head.weight is model.model.embed_tokens.weight, "tied on disk as in memory"
        assert len(AutoTokenizer.from_pretrained(made / name)) == 64
        assert locate_model(recipe, str(made / name)).label == name


def test_the_best_is_evaluated_by_its_path(make_recipe: MakeRecipe) -> None:
    recipe = recipe_of(make_recipe, "best", {"keep": {"best": True}}, max_steps=4, per_device_eval_batch_size=4)
    made = train(recipe)
    asked = Evaluate.model_validate({"loss": {}})
    scores = json.loads(
        (evaluate(recipe.model_copy(update={"evaluate": asked}), str(made / "best")) / "scores.json").read_text()
    )
    record = json.loads((made / "best" / "kept.json").read_text())
    assert scores["losses"]["widths"]["1"]["loss"]["value"] == pytest.approx(record["eval_loss"], rel=1e-4)


def test_an_adapter_is_kept_as_an_adapter(make_recipe: MakeRecipe) -> None:
    made = train(recipe_of(make_recipe, "adapter", {"lora": LORA, "keep": {"epochs": 2}}))
    assert set(kept(made)) == {"epoch-2"}
    assert {path.name for path in (made / "epoch-2").iterdir()} == {
        "base.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "kept.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


class Killed(Exception):
    """What a process that is killed would not even raise."""


def killing(original: Callable[..., Any], before: bool, times: list[int]) -> Callable[..., Any]:
    """Return the function, but that one of its calls is the last thing that the process does."""

    def call(*args: Any, **kwargs: Any) -> Any:
        times[0] -= 1
        if before and not times[0]:
            raise Killed
        made = original(*args, **kwargs)
        if not times[0]:
            raise Killed
        return made

    return call


@pytest.mark.parametrize(
    ("where", "name", "before", "call"),
    [
        (kept_models, "write_json", True, 2),  # in the middle of a directory
        (KeptModels, "_keep", False, 3),  # kept, and its step in no checkpoint yet
        (GuardedTrainer, "_save_checkpoint", False, 3),  # a better one kept and sealed, the worse one still there
        (KeptModels, "on_save", False, 2),  # and deleted
        (stage, "_save_final", True, 1),  # training over, nothing published
        (KeptModels, "finish", False, 1),  # the best has its name, and training is not marked as finished
    ],
)
def test_killed_anywhere_the_same_models_are_kept(
    where: Any, name: str, before: bool, call: int, make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(recipe_of(make_recipe, "whole"))
    victim = recipe_of(make_recipe, "victim")
    with monkeypatch.context() as patched:
        patched.setattr(where, name, killing(getattr(where, name), before, [call]))
        with pytest.raises(Killed):
            train(victim)
    made = train(victim)
    assert kept(made) == kept(whole)
    assert read_manifest(made)["metrics"]["kept"] == read_manifest(whole)["metrics"]["kept"]
    assert not list(made.glob("*.partial")) + list(made.glob("best-*"))


def test_a_restart_keeps_nothing_of_the_run_before(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = recipe_of(make_recipe, "victim")
    with monkeypatch.context() as patched:
        patched.setattr(stage, "_save_final", killing(stage._save_final, True, [1]))
        with pytest.raises(Killed):
            train(victim)
    (partial,) = victim.trained.parent.glob(".victim*.partial")
    (partial / "epoch-9").mkdir()
    (partial / "epoch-9" / "kept.json").write_text('{"step": 36, "epoch": 9}')
    assert set(kept(train(victim, restart=True))) == {"best", "epoch-1", "epoch-2", "epoch-3"}


def test_what_cannot_be_kept_is_refused(make_recipe: MakeRecipe) -> None:
    recipe = recipe_of(make_recipe, "blind")
    for file in recipe.artifact("data").rglob("*.json"):
        file.unlink()
    write_prepared(recipe.artifact("data"), make_rows(8, 0), [])
    with pytest.raises(UserError, match=r"train\.keep\.best compares eval losses"):
        train(recipe)
    args = {name: value for name, value in recipe.train.args.items() if name != "packing"}
    other = recipe.model_copy(update={"train": recipe.train.model_copy(update={"method": "dpo", "args": args})})
    with pytest.raises(UserError, match=r"train\.keep belongs to the methods"):
        train(other)
