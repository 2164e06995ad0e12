"""What a training leaves on the disk."""

from __future__ import annotations

from typing import Any

import pytest

from agentforge.planning.shapes import shape_of
from agentforge.planning.storage import made_items
from agentforge.recipe.schema import Recipe
from tests.trainers.tiny import TINY


@pytest.mark.parametrize(
    ("keep", "args", "models"),
    [
        (None, {}, 0),
        ({"epochs": 2}, {"num_train_epochs": 10}, 5),
        ({"epochs": 1, "best": True}, {}, 5),
        ({"best": True}, {"max_steps": 100}, 2),
    ],
)
def test_kept_models_take_space(keep: dict[str, Any] | None, args: dict[str, Any], models: int) -> None:
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "model": {"config": TINY | {"vocab_size": 64}, "dtype": "bfloat16"},
            "train": {"args": args, "keep": keep},
        }
    )
    items = {item.what: item.size for item in made_items(recipe, shape_of(recipe))}
    kept = {what: size for what, size in items.items() if "kept" in what}
    result = items["result"]
    assert result is not None
    assert kept == ({f"{models} kept models": models * result / 2} if models else {}), "half of fp32"
