"""Nested training as a stage: what comes out is a plain checkpoint, and every part of the loss has done its work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import FalconH1Config, FalconH1ForCausalLM, set_seed

from agentforge.recipe.schema import Model, Recipe
from agentforge.trainers.callbacks.metrics import read_metrics
from agentforge.trainers.train import train

from .conftest import MakeRecipe

FALCON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
NESTED = {"nested": {"widths": ["1/2", "1/4"], "random": 1, "mix_and_match": True}}
EXITS = {"exits": {"layers": [1, 2], "scale": 0.5, "layer_dropout": 0.2, "gates": True}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as surgery leaves it."""
    directory = tmp_path_factory.mktemp("adamba") / "base"
    set_seed(0)
    FalconH1ForCausalLM(FalconH1Config(**FALCON)).save_pretrained(directory)
    return directory


@pytest.fixture
def make(make_recipe: MakeRecipe, base: Path) -> MakeRecipe:
    """Return a function that makes a recipe on the base; keywords go into `train.args`."""

    def made(name: str, method: str, keys: dict[str, Any], path: Path = base, **args: Any) -> Recipe:
        recipe = make_recipe(name, method, keys, **args)
        return recipe.model_copy(update={"model": Model(path=str(path), dtype="float32")})

    return made


@pytest.mark.parametrize("method", ["pretrain", "sft"])
def test_widths_exits_and_gates_are_trained_and_the_result_is_a_plain_checkpoint(make: MakeRecipe, method: str) -> None:
    made = train(make("nested", method, NESTED | EXITS, max_steps=24, logging_steps=6))
    lines = [line for line in read_metrics(made / "metrics.jsonl") if "loss" in line]
    first, last = lines[0], lines[-1]
    for part in ("loss/width/1", "loss/width/1_4", "loss/exit/1", "loss/exit/2", "loss/gate/2"):
        assert last[part] < first[part], part
