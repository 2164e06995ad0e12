"""What the checker lets pass: recipes that are right, and what cannot be told yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentforge.errors import UserError
from agentforge.planning.limits.check import check_limits, limit_problems
from agentforge.planning.limits.lengths import positions_of
from agentforge.recipe.loading import find_recipe, load_recipe, read_extended, recipe_names
from agentforge.recipe.schema import Recipe

LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_have_nothing_wrong(name: str) -> None:
    for profile in (None, *read_extended(find_recipe(name)).get("profiles", {})):
        assert limit_problems(load_recipe(name, profile=profile), unfinished=True) == []


def recipe(base: Path | str, **train: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "x", "model": {"path": str(base)}, "data": {"max_length": 1024}, "train": {"method": "sft", **train}}
    )


def write(directory: Path, **changes: Any) -> Path:
    (directory / "config.json").write_text(json.dumps(LLAMA | changes), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": ["q_proj", "mlp.up_proj", "lm_head"]},
        {"target_modules": r".*\.1\.self_attn\.(q|v)_proj"},
        {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "norm"], "rank_pattern": {"q_proj": 2}},
        {"init_lora_weights": "orthogonal", "use_dora": True, "bias": "all"},
    ],
)
def test_lora_that_fits_passes(tmp_path: Path, lora: dict[str, Any]) -> None:
    check_limits(recipe(write(tmp_path), lora=lora))


def test_a_base_that_nothing_here_describes_is_checked_later() -> None:
    check_limits(recipe("nobody/knows", lora={"target_modules": ["anything"]}))
    with pytest.raises(UserError, match=r"train\.lora\.layers_to_transform has no effect"):
        check_limits(recipe("nobody/knows", lora={"target_modules": "all-linear", "layers_to_transform": [0]}))


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({}, None),
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 256}, 256),
        ({"text_config": {"max_position_embeddings": 64}, "max_position_embeddings": 8}, 64),
        ({"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        (
            {
                "max_position_embeddings": 2048,
                "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            },
            2048,
        ),
        # states the positions that it has been stretched to
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
    ],
)
def test_stretched_positions_count(config: dict[str, Any], positions: int | None) -> None:
    assert positions_of(config) == positions


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    wrong = recipe(write(tmp_path), lora={"lora_bias": True, "layers_pattern": "x"}, args={"save_total_limit": 1})
    with pytest.raises(UserError) as refused:
        check_limits(wrong)
    assert [line.split()[0] for line in str(refused.value).splitlines()] == [
        "train.args.save_total_limit",
        "train.lora.lora_bias",
        "train.lora.layers_pattern",
    ]
