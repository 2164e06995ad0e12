"""A tiny Adamba, and what the tests of trainers and export share."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from transformers import FalconH1Config

from agentforge.recipe.schema import Model, Recipe
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.expand import expand
from tests.export.conftest import tokenizer
from tests.systems.adamba.training.tiny_adamba import write_adamba
from tests.trainers.conftest import MakeRecipe, make_recipe, make_toy, tiny_base, toy_base

__all__ = ["make_recipe", "make_toy", "tiny_base", "tokenizer", "toy_base"]  # fixtures of other folders, used here too


@pytest.fixture(scope="session")
def adamba_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Adamba of four layers."""
    return write_adamba(tmp_path_factory.mktemp("adamba") / "base")


@pytest.fixture
def make_adamba(make_recipe: MakeRecipe, adamba_base: Path) -> MakeRecipe:
    """Return a function that makes a recipe on the tiny Adamba, or on ``path``; keywords go into `train.args`."""

    def make(name: str, method: str, train: dict[str, Any], path: Path = adamba_base, **args: Any) -> Recipe:
        recipe = make_recipe(name, method, train, **args)
        return recipe.model_copy(update={"model": Model(path=str(path), dtype="float32")})

    return make


@pytest.fixture(scope="session")
def expanded(adamba_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AdambaShape]:
    """A larger model around the tiny Adamba, and the shape that it had."""
    smaller = AdambaShape.of(FalconH1Config.from_pretrained(adamba_base))
    target = tmp_path_factory.mktemp("expanded")
    expand(adamba_base, target, replace(smaller.scaled(Fraction(5, 4)), num_hidden_layers=5), seed=1)
    return target, smaller
