"""A tiny Cognate's recipe with prepared rows: text of a byte-level tokenizer, made by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import disable_progress_bars
from transformers import PreTrainedTokenizerFast

from agentforge.artifacts import stage_directory
from agentforge.data.tokenizer import train_tokenizer
from agentforge.recipe.schema import Recipe

disable_progress_bars()

WORDS = ("the", "memory", "reads", "what", "attention", "no", "longer", "sees", "and", "halts")
MakeCognate = Callable[..., Recipe]


@cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 300 tokens."""
    return train_tokenizer([" ".join(WORDS)] * 20, 300)


def rows(count: int, seed: int, longest: int = 12) -> list[dict[str, Any]]:
    """Return sentences of random words; their first two tokens are not trained."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(3, longest)))
        ids = byte_tokenizer()(text)["input_ids"][:32]
        found.append({"input_ids": ids, "assistant_masks": [0, 0] + [1] * (len(ids) - 2), "source": "made"})
    return found


def write_rows(directory: Path, train: list[dict[str, Any]], evaluation: list[dict[str, Any]]) -> None:
    """Write what `prepare` would."""
    columns = {"input_ids": pa.list_(pa.int32()), "assistant_masks": pa.list_(pa.int8()), "source": pa.string()}
    schema = pa.schema(columns.items())
    with stage_directory(directory, stage="prepare", recipe={"rows": len(train)}) as work:
        byte_tokenizer().save_pretrained(work.path / "tokenizer")
        for split, made in (("train", train), ("eval", evaluation)):
            with (
                pa.OSFile(str(work.path / f"{split}-00000.arrow"), "wb") as file,
                pa.ipc.new_stream(file, schema) as writer,
            ):
                writer.write_table(pa.Table.from_pylist(made, schema))


CONFIG = {
    "model_type": "cognate",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_prelude_layers": 1,
    "num_core_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "sliding_window": 8,
    "memory_heads": 1,
    "memory_head_dim": 8,
    "persistent_tokens": 2,
    "gate_rank": 4,
    "micro_steps": 1,
    "max_recursions": 3,
    "gate_floor": 0.6,
}


@pytest.fixture
def make_cognate(tmp_path: Path) -> MakeCognate:
    """Return a function that makes a recipe with prepared data; keywords go into `train.args`."""

    def make(
        name: str = "tiny",
        method: str = "pretrain",
        train: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        **args: Any,
    ) -> Recipe:
        defaults: dict[str, Any] = {
            "max_steps": 8,
            "per_device_train_batch_size": 4,
            "learning_rate": 3e-3,
            "logging_steps": 2,
            "save_steps": 4,
            "bf16": False,
        }
        recipe = Recipe.model_validate(
            {
                "name": name,
                "output_dir": str(tmp_path),
                "model": {"config": CONFIG | (config or {}), "dtype": "float32"},
                "data": {"max_length": 32} | (data or {}),
                "train": {"method": method, "args": defaults | args, **(train or {})},
            }
        )
        if not recipe.artifact("data").is_dir():
            write_rows(recipe.artifact("data"), rows(60, 0), rows(6, 1))
        return recipe

    return make
