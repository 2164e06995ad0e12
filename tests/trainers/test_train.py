"""The stage as a whole: what it leaves behind, and that no kill, signal or restart changes what comes out."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused, MachineRefused, Stopped, UserError
from agentforge.models.fingerprint import base_fingerprint
from agentforge.recipe.schema import Model, Recipe
from agentforge.trainers import train as stage
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import LORA, figures, make_rows, write_prepared
from tests.trainers.together import launch

LORA_TRAIN = {"lora": LORA}


def digest(directory: Path) -> str:
    names = ["adapter_model.safetensors", "model.safetensors"]
    return hashlib.sha256(next(p for n in names if (p := directory / n).is_file()).read_bytes()).hexdigest()


def twin(recipe: Recipe, name: str) -> Recipe:
    """The same recipe under another name, with the same data."""
    other = recipe.model_copy(update={"name": name})
    if not other.artifact("data").is_dir():
        write_prepared(other.artifact("data"), make_rows(200, 0), make_rows(8, 1))
    return other


def test_an_adapter_is_left_with_what_it_belongs_to_and_nothing_else(make_recipe: MakeRecipe) -> None:
    base = train(make_recipe("base", "pretrain", save_steps=100))
    recipe = make_recipe("adapter", "sft", {"lora": LORA | {"lora_dropout": 0.0}}, max_steps=20)
    recipe = recipe.model_copy(update={"model": Model(path=str(base), dtype="float32")})
    made = train(recipe)
    assert made == recipe.artifact("lora")
    assert {path.name for path in made.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
        "manifest.json",
        "metrics.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    assert json.loads((made / "base.json").read_text())["fingerprint"] == base_fingerprint(base)
    assert json.loads((made / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    metrics = read_manifest(made)["metrics"]
    assert metrics["trainable_parameters"] == 2 * 4 * ((64 + 64) + (64 + 32))
    assert metrics["steps"] == 20 and metrics["skipped_steps"] == 0
    lines = read_metrics(made / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == list(range(2, 21, 2))
    assert metrics["loss"] == lines[-2]["loss"] < lines[0]["loss"]
    assert metrics["eval_loss"] == lines[-1]["eval_loss"]
    assert metrics["trained_tokens"] < metrics["tokens"] <= 20 * 2 * 32
    # up to date: nothing is done again
    before = (made / "manifest.json").stat().st_mtime_ns
    assert train(recipe) == made
    assert (made / "manifest.json").stat().st_mtime_ns == before


def test_a_model_from_scratch_loads_and_is_saved_in_the_recipes_dtype(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("scratch", "pretrain", max_steps=2)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": "bfloat16"})})
    made = train(recipe)
    assert made == recipe.artifact("model")
    loaded = AutoModelForCausalLM.from_pretrained(made)
    assert loaded.dtype == torch.bfloat16
    assert loaded.config.eos_token_id == 1
    assert not list(made.rglob("*.bin")) + list(made.rglob("*.pt")) + list(made.rglob("*.pth"))
    assert "token" not in "".join(
        key for key in json.loads((made / "training.json").read_text())["arguments"] if "hub" in key
    )


def test_a_cosine_can_end_above_zero(make_recipe: MakeRecipe) -> None:
    schedule = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
    made = train(make_recipe("floor", "sft", LORA_TRAIN, logging_steps=1, **schedule))
    rates = [line["learning_rate"] for line in read_metrics(made / "metrics.jsonl") if "learning_rate" in line]
    assert rates[0] == 3e-3 and rates == sorted(rates, reverse=True)
    assert 3e-4 <= rates[-1] < 5e-4, "the rate of the last step, one before the floor"


# -- kill -9 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that are forked from a server which has imported torch once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["agentforge.trainers.train"])
    return context


def start(processes: ForkServerContext, recipe: Recipe) -> ForkServerProcess:
    process = processes.Process(target=train, args=(recipe,))
    process.start()
    return process


@pytest.mark.fault("kill -9", "train, around its checkpoints", "the same weights and the same log", times=3)
def test_killed_at_random_moments_the_weights_and_the_log_are_those_of_an_unbroken_run(
    make_recipe: MakeRecipe, processes: ForkServerContext
) -> None:
    recipe = make_recipe("unbroken", "sft", LORA_TRAIN, max_steps=20, save_steps=3, gradient_accumulation_steps=2)
    whole = train(recipe)
    victim = twin(recipe, "killed")
    partial = victim.trained.with_name(f".{victim.trained.name}.partial")
    rng = random.Random(7)
    for step in (3, 9, 15):  # the moment depends on progress, not on the machine's speed
        process = start(processes, victim)
        while not (partial / f"checkpoint-{step}").is_dir():
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert not victim.trained.is_dir()
    process = start(processes, victim)
    process.join()
    assert process.exitcode == 0
    assert digest(victim.trained) == digest(whole)
    assert figures(victim.trained) == figures(whole)
    assert read_manifest(victim.trained)["metrics"]["tokens"] == read_manifest(whole)["metrics"]["tokens"]


def test_killed_between_the_last_checkpoint_and_the_end_nothing_is_trained_twice(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("unbroken", "pretrain", max_steps=4, save_steps=4)
    whole = train(recipe)
    victim = twin(recipe, "killed")
    monkeypatch.setattr(stage, "_save_final", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        train(victim)
    monkeypatch.undo()
    assert digest(train(victim)) == digest(whole)
    assert figures(victim.trained) == figures(whole)


@pytest.mark.fault("a file of a checkpoint is gone", "train", "refused: no fresh optimiser unasked")
def test_a_missing_optimiser_state_stops_the_run(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = make_recipe("broken", "pretrain", max_steps=4, save_steps=2)
    monkeypatch.setattr(stage, "_save_final", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        train(recipe)
    (checkpoint,) = recipe.trained.parent.glob(".broken*.partial/checkpoint-4")
    (checkpoint / "optimizer.pt").unlink()
    with pytest.raises(CheckRefused, match=r"optimizer\.pt is missing"):
        train(recipe)


# -- signals and the budget -----------------------------------------------------------------------------------------


@pytest.mark.fault("SIGTERM, Ctrl-C", "train", "the same weights")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_a_checkpoint_and_the_next_run_goes_on_to_the_same_weights(
    make_recipe: MakeRecipe, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe("unbroken", "sft", LORA_TRAIN, max_steps=8, save_steps=100)
    whole = train(recipe)
    victim = twin(recipe, "stopped")
    original = LimitsCallback.on_step_end

    def signalled(self: LimitsCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            os.kill(os.getpid(), number)
        original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(LimitsCallback, "on_step_end", signalled)
        with pytest.raises(
            Stopped, match="after step 5 of 8, and a checkpoint is saved; run the same command again"
        ) as stop:
            train(victim)
    assert stop.value.exit_code == 75
    assert not victim.trained.exists()
    assert digest(train(victim)) == digest(whole)
    assert [line for line in figures(victim.trained) if "loss" in line] == [
        line for line in figures(whole) if "loss" in line
    ]


def test_only_a_run_with_a_checkpoint_stands_in_the_way(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stopped before its first one blocks no corrected recipe; what lost all of them does not begin again."""
    wrong = make_recipe("wrong", "pretrain", max_steps=2, save_steps=1, learning_rate=1.0)
    corrected = make_recipe("wrong", "pretrain", max_steps=2, save_steps=1, learning_rate=1e-3)
    with monkeypatch.context() as patched:
        patched.setattr(LimitsCallback, "on_step_end", interrupted_at(1))
        with pytest.raises(KeyboardInterrupt):
            train(wrong)
    with monkeypatch.context() as patched:
        patched.setattr(LimitsCallback, "on_step_end", interrupted_at(2))
        with pytest.raises(KeyboardInterrupt):
            train(corrected)
    (checkpoint,) = corrected.trained.parent.glob(".wrong*.partial/checkpoint-1")
    (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckRefused, match="--restart to lose 1 steps"):
        train(corrected)
    assert read_manifest(train(corrected, restart=True))["metrics"]["steps"] == 2


def interrupted_at(step: int) -> Callable[..., None]:
    def on_step_end(self: LimitsCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise KeyboardInterrupt

    return on_step_end


def test_after_an_out_of_memory_the_smaller_batch_just_runs(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with monkeypatch.context() as patched:
        patched.setattr(GuardedTrainer, "training_step", exhausted)
        with pytest.raises(MachineRefused, match=r"memory is used up; lower train\.args\.per_device_train_batch_size"):
            train(make_recipe("large", "pretrain", per_device_train_batch_size=8))
    assert read_manifest(train(make_recipe("large", "pretrain", max_steps=1)))["metrics"]["steps"] == 1


def test_a_second_ctrl_c_acts_at_once() -> None:
    limits = LimitsCallback(Recipe(name="x").budget, 0.0, 0.0)
    before = signal.getsignal(signal.SIGINT)
    with limits.listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_over_its_budget_is_stopped_with_a_checkpoint_and_goes_on_with_a_larger_one(
    make_recipe: MakeRecipe,
) -> None:
    recipe = make_recipe("dear", "pretrain", save_steps=100)
    poor = recipe.model_copy(update={"budget": recipe.budget.model_copy(update={"max_hours": 1e-9})})
    with pytest.raises(CheckRefused, match=r"budget\.max_hours is 1e-09: stopped after step 1 of 8"):
        train(poor)
    assert list(recipe.trained.parent.glob(".dear*.partial/checkpoint-1/complete.json"))
    assert read_manifest(train(recipe))["metrics"]["steps"] == 8


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "train_section", "args", "words"),
    [
        ("sft", {}, {"save_total_limit": 1}, "give 2"),
        ("sft", {}, {"packing_strategy": "wrapped"}, "keeps every conversation whole"),
        ("sft", {}, {"lr_scheduler_type": "zigzag"}, r"train\.args\.lr_scheduler_type is 'zigzag'"),
        ("sft", {}, {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}}, "the schedule linear does not take"),
        ("sft", {}, {"lr_scheduler_type": "cosine_with_min_lr"}, "must have either min_lr or min_lr_rate"),
        ("sft", {"lora": {"target_modules": ["nope"]}}, {}, "it has down_proj"),
    ],
)
def test_a_wrong_recipe_is_refused(
    make_recipe: MakeRecipe, method: str, train_section: dict[str, Any], args: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(make_recipe("wrong", method, train_section, **args))


def test_data_without_rows_are_refused(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("full", "pretrain").model_copy(update={"name": "empty"})
    write_prepared(recipe.artifact("data"), [], [])
    with pytest.raises(UserError, match="no training rows"):
        train(recipe)


def test_a_run_without_eval_rows_has_no_eval_loss(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe("full", "pretrain", max_steps=2).model_copy(update={"name": "no-eval"})
    write_prepared(recipe.artifact("data"), make_rows(20, 0), [])
    assert read_manifest(train(recipe))["metrics"]["eval_loss"] is None


# -- several processes ----------------------------------------------------------------------------------------------


@pytest.mark.fault("SIGTERM", "train, to one of two processes", "both stop at one step; the losses of one process")
def test_two_processes_train_as_one_with_twice_the_batch(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """A signal to one process alone stops both with a checkpoint; run again, they end as one does."""
    options: dict[str, Any] = {"max_steps": 4, "save_steps": 100, "logging_steps": 1, "packing": False}
    one = train(make_recipe("one", "sft", per_device_train_batch_size=4, **options))
    recipe = make_recipe("two", "sft", per_device_train_batch_size=2, **options)
    stopped = launch(recipe, tmp_path, "stop")
    assert stopped.returncode == 75, stopped.stderr[-3000:]
    finished = launch(recipe, tmp_path, "finish")
    assert finished.returncode == 0, finished.stderr[-3000:]
    metrics = read_manifest(recipe.trained)["metrics"]
    assert metrics["processes"] == 2
    assert metrics["tokens"] == read_manifest(one)["metrics"]["tokens"]
    of_one, of_two = ([line["loss"] for line in figures(made) if "loss" in line] for made in (one, recipe.trained))
    assert len(of_two) == 4
    assert of_two == pytest.approx(of_one, rel=1e-5)
