"""Whole trainings of a tiny Cognate: kept models, averages, kills, a bad batch, two processes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from agentforge.artifacts import read_manifest
from agentforge.errors import UserError
from agentforge.models.auto import register_all
from agentforge.recipe.schema import Model
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.training.objective import CognateObjective
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics
from tests.systems.cognate.training.conftest import MakeCognate, rows
from tests.trainers.tiny import LORA, TINY, figures
from tests.trainers.together import launch

register_all()

SAMPLED = {"step_loss_share": 0.5, "correctness_weight": 0.1, "attention_dropout": 0.1}
"""Everything that draws numbers in a step."""


def digest(directory: Path) -> str:
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()


def test_it_learns_and_the_log_adds_up(make_cognate: MakeCognate) -> None:
    recipe = make_cognate("learns", max_steps=20, learning_rate=0.02, logging_steps=1, save_steps=20)
    made = train(recipe)
    lines = [line for line in read_metrics(made / "metrics.jsonl") if "loss" in line]
    assert lines[-1]["loss_ce"] < 0.7 * lines[0]["loss_ce"]
    for line in lines:
        weight = 1e-3 * (1 - (line["step"] - 1) / 19)
        assert line["loss"] == pytest.approx(line["loss_ce"] + line["loss_act"] + weight * line["loss_gate"], rel=1e-4)
        assert line["perplexity"] == pytest.approx(math.exp(line["loss_ce"]))
    model = AutoModelForCausalLM.from_pretrained(made)
    assert isinstance(model, CognateForCausalLM)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_averages_are_kept_and_open_with_tied_and_shared_weights(make_cognate: MakeCognate) -> None:
    """The best is an average; the core, which is run nine times a pass, is averaged once."""
    keep = {"keep": {"epochs": 1, "best": True}, "ema": 0.7}
    made = train(make_cognate("kept", train=keep, max_steps=-1, num_train_epochs=2, eval_steps=3, packing=False))
    names = {path.parent.name for path in made.glob("*/kept.json")}
    assert names == {"best", "epoch-1", "epoch-2"}
    assert digest(made / "epoch-2") == digest(made) != digest(made / "epoch-1")
    best = AutoModelForCausalLM.from_pretrained(made / "best").eval()
    record = json.loads((made / "best" / "kept.json").read_text())
    lines = {line["step"]: line for line in read_metrics(made / "metrics.jsonl") if "eval_loss" in line}
    assert record["eval_loss"] == min(line["eval_loss"] for line in lines.values())
    # what the record says is what the opened model does
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows(6, 1):
            ids = torch.tensor([row["input_ids"]])
            total += CognateObjective(best).evaluate(input_ids=ids, labels=ids)["loss"].item()
            count += ids.shape[1] - 1
    assert total / count == pytest.approx(record["eval_loss"], rel=1e-5)


# -- kill -9 --------------------------------------------------------------------------------------------------------

ALONE = """
import sys
from agentforge.recipe.schema import Recipe
from agentforge.trainers.train import train
train(Recipe.model_validate_json(open(sys.argv[1]).read()))
"""


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[4]), "HF_HUB_OFFLINE": "1"}


def test_killed_inside_an_epoch_the_same_positions_are_drawn(make_cognate: MakeCognate, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "train": {"keep": {"epochs": 1, "best": True}, "ema": 0.7},
        "config": SAMPLED,
        "max_steps": -1,
        "num_train_epochs": 2,
        "save_steps": 4,
        "eval_steps": 2,
        "gradient_accumulation_steps": 2,
        "packing": False,
    }
    whole = train(make_cognate("whole", **options))
    victim = make_cognate("victim", **options)
    (tmp_path / "recipe.json").write_text(victim.model_dump_json())
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, str(tmp_path / "alone.py"), str(tmp_path / "recipe.json")]
    running = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL, start_new_session=True)
    # eight steps an epoch: in the middle of the second
    sealed = victim.trained.with_name(f".{victim.trained.name}.partial") / "checkpoint-12" / "complete.json"
    while not sealed.is_file():
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    made = train(victim)
    assert figures(made) == figures(whole)
    for name in ("", "best", "epoch-1", "epoch-2"):
        assert digest(made / name) == digest(whole / name)
    assert read_manifest(made)["metrics"]["kept"] == read_manifest(whole)["metrics"]["kept"]


# -- a bad batch, several processes, other ways to train --------------------------------------------------------------


def test_a_batch_that_is_no_number_changes_nothing(make_cognate: MakeCognate, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = CognateObjective.forward, []

    def poisoned(self: CognateObjective, *args: Any, **kwargs: Any) -> Any:
        loss, parts = original(self, *args, **kwargs)
        calls.append(None)
        if len(calls) != 3:
            return loss, parts
        return loss * math.nan, {name: part * math.nan if name != "tokens" else part for name, part in parts.items()}

    monkeypatch.setattr(CognateObjective, "forward", poisoned)
    made = train(make_cognate("bad", max_steps=5, logging_steps=1))
    assert read_manifest(made)["metrics"]["skipped_steps"] == 1
    lines = {line["step"]: line for line in read_metrics(made / "metrics.jsonl") if "tokens" in line}
    assert "loss" not in lines[3] and all(math.isfinite(lines[step]["loss_ce"]) for step in (1, 2, 4, 5))
    assert all(torch.isfinite(weight).all() for weight in AutoModelForCausalLM.from_pretrained(made).parameters())


def test_two_processes_train_and_evaluate_as_one(make_cognate: MakeCognate, tmp_path: Path) -> None:
    """Five eval rows on two processes: one is read twice, and counts once."""
    options: dict[str, Any] = {
        "config": {"gate_weight": 1.0, "correctness_weight": 0.1},
        "max_steps": 4,
        "logging_steps": 1,
        "packing": False,
        "per_device_eval_batch_size": 1,
        "train": {"keep": {"best": True}},
    }
    one = train(make_cognate("one", per_device_train_batch_size=4, **options))
    recipe = make_cognate("two", per_device_train_batch_size=2, **options)
    finished = launch(recipe, tmp_path)
    assert finished.returncode == 0, finished.stderr[-3000:]
    kept = read_manifest(recipe.trained)["metrics"]["kept"]["best"]
    assert kept["step"] == 4 and (recipe.trained / "best" / "model.safetensors").is_file()
    of_one, of_two = figures(one), figures(recipe.trained)
    assert len(of_one) == len(of_two) == 5
    for expected, found in zip(of_one, of_two, strict=True):
        assert found.keys() == expected.keys()
        # one row of each batch is looked at by process 0, and these are other rows
        names = expected.keys() - {"ltm/memory_usage", "epoch"}
        assert {name: found[name] for name in names} == pytest.approx(
            {name: expected[name] for name in names}, rel=2e-4, abs=1e-6
        )


@pytest.mark.parametrize(("method", "lora"), [("sft", None), ("pretrain", LORA)])
def test_it_is_fine_tuned(make_cognate: MakeCognate, method: str, lora: dict[str, Any] | None) -> None:
    base = train(make_cognate("base", max_steps=1))
    recipe = make_cognate("tuned", method, {"lora": lora} if lora else None, max_steps=4, packing=True)
    made = train(recipe.model_copy(update={"model": Model(path=str(base), dtype="float32")}))
    lines = [line for line in read_metrics(made / "metrics.jsonl") if "loss" in line]
    assert {"loss_act", "act/halt_entropy", "ltm/gate_mean"} <= lines[-1].keys()


def test_what_would_be_ignored_is_refused(make_cognate: MakeCognate) -> None:
    with pytest.raises(UserError, match="label_smoothing_factor does not act on the loss of a cognate"):
        train(make_cognate("wrong", label_smoothing_factor=0.1))


def test_sharded_weights_are_refused(make_cognate: MakeCognate) -> None:
    with pytest.raises(UserError, match="that reads the head's whole matrix, which ZeRO-3 cannot divide"):
        train(make_cognate("wrong", train={"launch": "zero3", "processes": 2}))


def test_its_keys_are_for_a_cognate(make_cognate: MakeCognate) -> None:
    recipe = make_cognate("other", train={"gate_annealing": 0.5})
    other = recipe.model_copy(update={"model": recipe.model.model_copy(update={"config": TINY})})
    with pytest.raises(UserError, match=r"train\.gate_annealing is for a cognate, but the model is a qwen3"):
        train(other)
