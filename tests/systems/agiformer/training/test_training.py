"""Whole trainings of a tiny AGIFORMER with counted n-grams: counted before the first step, kept in every checkpoint."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from datasets import disable_progress_bars
from transformers import AutoModelForCausalLM

from agentforge.artifacts import stage_directory
from agentforge.data.store import SCHEMA
from agentforge.errors import UserError
from agentforge.recipe.schema import Recipe
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.tokenizer import AgiformerTokenizer
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.train import train
from agentforge.training_log import read_metrics

disable_progress_bars()

WORDS = ("counts", "know", "how", "often", "a", "context", "was", "seen")
CONFIG = {
    "model_type": "agiformer",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "counted_sizes": [1, 2, 4],
    "counted_folds": 3,
}


def some_rows(count: int, seed: int) -> list[dict[str, Any]]:
    draw, made = random.Random(seed), []
    for _ in range(count):
        ids = list(" ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 9))).encode())[:48]
        made.append({"input_ids": ids, "assistant_masks": [1] * len(ids), "source": "made"})
    return [row | {"place": place} for place, row in enumerate(made)]


def shuffled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As `prepare` stores them."""
    return random.Random(2).sample(rows, len(rows))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    made = Recipe.model_validate(
        {
            "name": "counts",
            "output_dir": str(tmp_path),
            "model": {"config": CONFIG, "dtype": "float32", "tokenizer": "bytes"},
            "data": {"max_length": 48},
            "train": {
                "method": "pretrain",
                "ema": 0.7,
                "args": {
                    "max_steps": 8,
                    "save_steps": 4,
                    "logging_steps": 1,
                    "per_device_train_batch_size": 8,
                    "learning_rate": 1e-2,
                    "bf16": False,
                },
            },
        }
    )
    with stage_directory(made.artifact("data"), stage="prepare", recipe={}) as work:
        AgiformerTokenizer().save_pretrained(work.path / "tokenizer")
        for split, rows in (("train", shuffled(some_rows(120, 0))), ("eval", some_rows(6, 1))):
            with (
                pa.OSFile(str(work.path / f"{split}-00000.arrow"), "wb") as file,
                pa.ipc.new_stream(file, SCHEMA) as writer,
            ):
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    return made


def opened(path: Path) -> AgiformerForCausalLM:
    model = AutoModelForCausalLM.from_pretrained(path)
    assert isinstance(model, AgiformerForCausalLM)
    return model


def interrupted_at_step_6(self: LimitsCallback, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
    if state.global_step == 6:
        raise KeyboardInterrupt


def test_the_training_text_is_counted_and_a_resumed_run_ends_alike(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = train(recipe)
    whole = opened(made)
    assert whole.counted is not None
    rows = some_rows(120, 0)
    assert int(whole.counted.counts.sum()) == 3 * sum(len(row["input_ids"]) - 1 for row in rows)
    in_order = AgiformerForCausalLM(whole.config.__class__(**CONFIG))
    in_order.count([row["input_ids"] for row in rows])
    assert in_order.counted is not None
    assert torch.equal(in_order.counted.counts, whole.counted.counts), "neighbours in the text share a fold"
    first = next(line["loss"] for line in read_metrics(made / "metrics.jsonl") if "loss" in line)
    assert first < 3.5, "the counts are worth something before anything is learnt: a uniform model has 5.6 nats"
    again = recipe.model_copy(update={"output_dir": str(tmp_path / "again")})
    shutil.copytree(recipe.artifact("data"), again.artifact("data"))
    with monkeypatch.context() as patched:
        patched.setattr(LimitsCallback, "on_step_end", interrupted_at_step_6)
        with pytest.raises(KeyboardInterrupt):
            train(again)
    other = opened(train(again))
    for name, values in whole.state_dict().items():
        assert torch.equal(values, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("counted_sizes", [0], "an n-gram has at least 1 byte"),
        ("counted_folds", 1, "1 is not between 2 and 62"),
        ("counted_folds", 63, "63 is not between 2 and 62"),
    ],
)
def test_what_cannot_be_counted_is_refused(recipe: Recipe, field: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        train(
            Recipe.model_validate(
                recipe.model_dump() | {"model": {"config": CONFIG | {field: value}, "dtype": "float32"}}
            )
        )
