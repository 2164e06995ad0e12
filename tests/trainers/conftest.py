"""Recipes with prepared data beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from datasets import disable_progress_bars

from agentforge.recipe.schema import Recipe
from tests.trainers.tiny import TINY, make_rows, write_prepared
from tests.trainers.toys import toy_recipe, write_base

disable_progress_bars()

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def make_recipe(tmp_path: Path) -> MakeRecipe:
    """Return a function that makes a recipe with prepared data; keywords go into `train.args`."""

    def make(name: str = "tiny", method: str = "sft", train: dict[str, Any] | None = None, **args: Any) -> Recipe:
        defaults = {
            "max_steps": 8,
            "per_device_train_batch_size": 2,
            "learning_rate": 3e-3,
            "logging_steps": 2,
            "save_steps": 4,
            "bf16": False,  # the same figures on every CPU
        }
        recipe = Recipe.model_validate(
            {
                "name": name,
                "output_dir": str(tmp_path),
                "model": {"config": TINY, "dtype": "float32"},
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
