"""What a training is made from and known by: nothing damaged is read, nothing that changes no weight counts."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused, Stopped, UserError
from agentforge.models.checkpoint import Checkpoint
from agentforge.recipe.schema import Model, Recipe
from agentforge.trainers import published
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.train import train
from tests.manifests import flip, reseal
from tests.trainers.conftest import MakeRecipe
from tests.trainers.test_train import digest, twin
from tests.trainers.tiny import LORA


def made_at(directory: Path) -> int:
    return (directory / "manifest.json").stat().st_mtime_ns


def changed(recipe: Recipe, **args: Any) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"args": recipe.train.args | args})})


def on(recipe: Recipe, base: Path, **model: Any) -> Recipe:
    return recipe.model_copy(update={"model": Model(path=str(base), dtype="float32", **model)})


@pytest.fixture
def tuned(make_recipe: MakeRecipe) -> tuple[Path, Recipe]:
    """A base, and a recipe that trains an adapter on it."""
    base = train(make_recipe("base", "pretrain", max_steps=2))
    return base, on(make_recipe("tuned", "sft", {"lora": LORA}, max_steps=4), base)


# -- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.fault("a flipped bit", "the base, the prepared data", "refused before a step is trained")
def test_a_base_or_data_with_a_flipped_byte_are_not_trained_on(tuned: tuple[Path, Recipe], tmp_path: Path) -> None:
    base, recipe = tuned
    before = sorted(tmp_path.iterdir())
    for file in (base / "model.safetensors", recipe.artifact("data") / "train-00000.arrow"):
        flip(file, -20)
        with pytest.raises(CheckRefused, match=f"{file.name} has other bytes than were written"):
            train(recipe)
        flip(file, -20)
    assert sorted(tmp_path.iterdir()) == before


def test_a_finished_training_without_its_weights_is_not_done(tuned: tuple[Path, Recipe]) -> None:
    _, recipe = tuned
    made = train(recipe)
    weights = digest(made)
    (made / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckRefused, match=r"adapter_model\.safetensors is gone; restore it"):
        train(recipe)
    assert digest(train(recipe, replace=True)) == weights


# -- what it is known by --------------------------------------------------------------------------------------------


def test_made_again_an_adapter_is_the_same_input_to_others(tuned: tuple[Path, Recipe]) -> None:
    _, recipe = tuned
    once = read_manifest(train(recipe))
    (recipe.trained / "adapter_model.safetensors").unlink()
    again = read_manifest(train(recipe, replace=True))
    assert once["files"]["metrics.jsonl"] != again["files"]["metrics.jsonl"], "it holds times"
    assert once["content"] == again["content"]


def test_a_base_that_was_moved_is_the_same_base(tuned: tuple[Path, Recipe], tmp_path: Path) -> None:
    base, recipe = tuned
    made = made_at(train(recipe))
    moved = base.rename(tmp_path / "moved")
    assert made_at(train(on(recipe, moved))) == made


WITHOUT_EFFECT: dict[str, Any] = {
    "logging_steps": 1,
    "save_steps": 3,
    "eval_steps": 1,
    "per_device_eval_batch_size": 3,
    "save_total_limit": 5,
    "report_to": "none",
    "dataloader_num_workers": 1,
    "gradient_checkpointing": True,
}


def test_arguments_that_change_no_weight_never_train_again(make_recipe: MakeRecipe) -> None:
    """And they change none: the adapter has dropout, which must not depend on how often there was an evaluation."""
    recipe = make_recipe("tuned", "sft", {"lora": LORA}, max_steps=8)
    made = train(recipe)
    before = made_at(made)
    assert made_at(train(changed(recipe, **WITHOUT_EFFECT))) == before
    with pytest.raises(CheckRefused, match=r"learning_rate: 0\.003 -> 0\.001"):
        train(changed(recipe, learning_rate=1e-3))
    assert digest(train(changed(twin(recipe, "other"), **WITHOUT_EFFECT))) == digest(made)


@pytest.mark.parametrize("value", ["none", ["none"], [], None])
def test_no_tracker_is_the_same_in_all_its_spellings(make_recipe: MakeRecipe, value: Any) -> None:
    recipe = make_recipe("tuned", "pretrain", max_steps=1, report_to=value)
    made = made_at(train(recipe))
    args = {key: value for key, value in recipe.train.args.items() if key != "report_to"}
    unset = recipe.model_copy(update={"train": recipe.train.model_copy(update={"args": args})})
    assert made_at(train(unset)) == made


def test_evaluations_count_where_the_best_is_kept(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("kept", "pretrain", {"keep": {"best": True}}, max_steps=2, eval_steps=1)
    train(recipe)
    with pytest.raises(CheckRefused, match="eval_steps: 1 -> 2"):
        train(changed(recipe, eval_steps=2))


# -- stopped and refused --------------------------------------------------------------------------------------------


def signalled_at(step: int) -> Callable[..., None]:
    original = LimitsCallback.on_step_end

    def on_step_end(self: LimitsCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, args, state, control, **kwargs)

    return on_step_end


def test_a_stopped_replacement_goes_on_with_what_the_recipe_says_by_now(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_recipe("replaced", "sft", {"lora": LORA}, max_steps=2)
    train(old)
    new = make_recipe("replaced", "sft", {"lora": LORA}, max_steps=8, save_steps=100)
    with monkeypatch.context() as patched:
        patched.setattr(LimitsCallback, "on_step_end", signalled_at(3))
        with pytest.raises(Stopped, match="after step 3 of 8"):
            train(new, replace=True)
    assert read_manifest(old.trained)["metrics"]["steps"] == 2, "the old one is in use until the new one is whole"
    saved: list[int] = []
    steps: list[int] = []
    with monkeypatch.context() as patched:
        original = LimitsCallback.on_step_end

        def noted(self: LimitsCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.global_step)
            original(self, args, state, control, **kwargs)

        patched.setattr(LimitsCallback, "on_step_end", noted)
        patched.setattr(
            "agentforge.trainers.guarded_trainer.seal", lambda path, world_size: saved.append(int(path.name[11:]))
        )
        train(changed(new, save_steps=5), replace=True)
    assert steps == [4, 5, 6, 7, 8]
    assert saved == [5, 8]
    assert digest(new.trained) == digest(train(twin(new, "unbroken")))


def test_a_refused_start_leaves_nothing_behind(
    make_recipe: MakeRecipe, tuned: tuple[Path, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, recipe = tuned
    adapter = train(recipe)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wrong = make_recipe("wrong", "sft", {"lora": LORA}, max_steps=1)
    before = sorted(tmp_path.iterdir())
    for refused, words in (
        (on(wrong, base, quantize="nf4"), "nf4 needs a CUDA GPU"),
        (on(wrong, adapter), "is an adapter, not a model: run `agentforge merge`"),
        (changed(on(wrong, base), report_to=["clearml"]), "clearml, but its package is not installed"),
    ):
        with pytest.raises(UserError, match=words):
            train(refused)
        assert sorted(tmp_path.iterdir()) == before
    train(on(wrong, base))


def test_a_start_that_fails_in_the_library_leaves_nothing_behind(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("failed", "pretrain", max_steps=1)
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr("agentforge.trainers.supervised.pretrain.PretrainTrainer.train", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(recipe)
    assert sorted(tmp_path.iterdir()) == before
    train(recipe)


# -- what is published ----------------------------------------------------------------------------------------------


def too_large_for_float16(base: Path) -> Path:
    """Give a base one weight that only a wider dtype holds."""
    state = load_file(base / "model.safetensors")
    state["model.norm.weight"][3] = 1e5
    save_file(state, base / "model.safetensors", {"format": "pt"})
    reseal(base)
    return base


@pytest.mark.parametrize("saved", [{"save_strategy": "no"}, {"save_steps": 2}])
def test_weights_that_float16_cannot_hold_are_named_and_published_in_bfloat16_without_training_again(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, saved: dict[str, Any]
) -> None:
    base = too_large_for_float16(train(make_recipe("base", "pretrain", max_steps=1)))
    recipe = make_recipe("half", "sft", {"ema": 0.5}, max_steps=5, **saved)
    half = on(recipe, base).model_copy(update={"model": Model(path=str(base), dtype="float16")})
    corrected = half.model_copy(update={"model": Model(path=str(base), dtype="bfloat16")})
    words = r"model\.norm\.weight .* 100,000, and float16 ends at 65,504; set model\.dtype=bfloat16: .* step 5$"
    for _ in range(2):  # the same command again is the same refusal, at once
        with pytest.raises(CheckRefused, match=words):
            train(half)
        partial = half.trained.with_name(f".{half.trained.name}.partial")
        assert not list(partial.glob("*.safetensors")), "half of a model is left"
        assert not half.trained.exists()
    with pytest.raises(CheckRefused, match=r"learning_rate"):
        train(changed(corrected, learning_rate=1e-3))
    with monkeypatch.context() as patched:
        patched.setattr(GuardedTrainer, "training_step", lambda *_: pytest.fail("a step is made again"))
        made = train(corrected)
    assert {info.dtype for info in Checkpoint(made).tensors.values()} == {"BF16"}
    assert digest(made) == digest(train(twin(corrected, "unbroken")))
    with pytest.raises(CheckRefused, match="dtype: 'bfloat16' -> 'float32'"):  # finished, it is another artefact
        train(on(recipe, base))


def test_what_is_published_already_is_not_taken_for_another_dtype(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that died between the last file and the rename leaves its weights in the old dtype."""
    recipe = make_recipe("late", "pretrain", max_steps=1)
    with monkeypatch.context() as patched:
        patched.setattr("agentforge.trainers.train._tidy", lambda directory: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(recipe)
    with pytest.raises(CheckRefused, match=r"stopped run of another recipe \(model\.dtype"):
        train(recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "bfloat16"})}))
    train(recipe)


def test_frozen_weights_of_another_dtype_are_another_training(
    tuned: tuple[Path, Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, recipe = tuned
    with monkeypatch.context() as patched:
        patched.setattr(LimitsCallback, "on_step_end", signalled_at(2))
        with pytest.raises(Stopped):
            train(recipe)
    with pytest.raises(CheckRefused, match=r"stopped run of another recipe \(model\.dtype"):
        train(recipe.model_copy(update={"model": Model(path=str(base), dtype="bfloat16")}))


def test_models_kept_before_the_overflow_stay_as_they_are(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe("kept", "pretrain", {"keep": {"epochs": 1}}, max_steps=-1, num_train_epochs=2)
    half = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "float16"})})
    original = published._in_dtype

    def overflowing(state: Any, dtype: torch.dtype) -> Any:
        if (half.trained.with_name(f".{half.trained.name}.partial") / "epoch-1").exists():
            state["model.norm.weight"][3] = 1e5
        return original(state, dtype)

    with monkeypatch.context() as patched:
        patched.setattr(published, "_in_dtype", overflowing)
        with pytest.raises(CheckRefused, match=r"model\.norm\.weight"):
            train(half)
    made = train(half.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "bfloat16"})}))
    assert "epoch-1 was kept as float16, and stays so" in caplog.text
    kinds = {name: {i.dtype for i in Checkpoint(made / name).tensors.values()} for name in ("epoch-1", "epoch-2", ".")}
    assert kinds == {"epoch-1": {"F16"}, "epoch-2": {"BF16"}, ".": {"BF16"}}
