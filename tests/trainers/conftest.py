"""Recipes with prepared data beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import disable_progress_bars
from transformers import AutoConfig, AutoModelForCausalLM

from agentforge.recipe.schema import Recipe
from tests.trainers.tiny import TINY, VOCABULARY, make_rows, tiny_tokenizer, write_prepared
from tests.trainers.toys import toy_recipe, write_base

disable_progress_bars()

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that lie in a directory, as an adapter needs them."""
    directory = tmp_path_factory.mktemp("tiny") / "base"
    torch.manual_seed(0)
    config = AutoConfig.for_model(**TINY, vocab_size=VOCABULARY)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def make_recipe(tmp_path: Path, tiny_base: Path) -> MakeRecipe:
    """Return a function that makes a recipe with prepared data; keywords go into `train.args`.

    The model is from scratch, or the base of an adapter.
    """

    def make(name: str = "tiny", method: str = "sft", train: dict[str, Any] | None = None, **args: Any) -> Recipe:
        defaults = {
            "max_steps": 8,
            "per_device_train_batch_size": 2,
            "learning_rate": 3e-3,
            "logging_steps": 2,
            "save_steps": 4,
            "bf16": False,  # the same figures on every CPU
        }
        start = {"path": str(tiny_base)} if "lora" in (train or {}) else {"config": TINY}
        recipe = Recipe.model_validate(
            {
                "name": name,
                "output_dir": str(tmp_path),
                "model": start | {"dtype": "float32"},
                "data": {"max_length": 32},
                "train": {"method": method, "args": defaults | args, **(train or {})},
            }
        )
        if not recipe.artifact("data").is_dir():
            write_prepared(recipe.artifact("data"), make_rows(200, 0), make_rows(8, 1))
        return recipe

    return make


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers any colour with some colour."""
    return write_base(tmp_path_factory.mktemp("toy") / "base")


@pytest.fixture
def make_toy(toy_base: Path, tmp_path: Path) -> MakeRecipe:
    """Return a function that makes a recipe for the toy environment."""
    return partial(toy_recipe, toy_base, tmp_path)
