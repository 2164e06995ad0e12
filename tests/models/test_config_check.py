"""What `train` refuses about `model.config` is refused by `show` and `plan`, in the same words."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from transformers import AutoConfig

from agentforge.errors import UserError
from agentforge.models.auto import register_all
from agentforge.models.build import from_scratch
from agentforge.models.config_check import CONFIG_CLASSES, check_model
from agentforge.planning.shapes import shape_of, sized_by_table
from agentforge.recipe.loading import load_recipe, recipe_names
from agentforge.recipe.schema import Model, Recipe
from agentforge.recipe.tables import fields_of

register_all()

TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
HYBRID = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "lama"}, "'lama' is unknown to transformers; did you mean 'llama'"),
        ({"model_type": "llama", "hiden_size": 32}, "a llama has no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"model_type": "gpt2", "n_layers": 2}, "a gpt2 has no field 'n_layers'; did you mean 'n_layer'"),
        ({"model_type": "qwen3", "hidden_size": "32"}, "hidden_size is '32'; it must be a whole number, not text"),
        ({"model_type": "gemma3_text", "hidden_size": "32"}, "expected int, got str"),
        ({"model_type": "llama", "hidden_size": 30}, "must be a multiple of num_attention_heads, 4"),
        ({"model_type": "qwen2", "num_key_value_heads": 3}, "must be a multiple of num_key_value_heads, 3"),
        ({"model_type": "llama", "rms_norm_eps": 1}, "rms_norm_eps is 1; it must have a decimal point: 1.0"),
        (
            {"model_type": "qwen2", "layer_types": ["full_attention"]},
            "has 1 entries; it must have num_hidden_layers, 3",
        ),
        ({"model_type": "falcon_h1", **HYBRID, "mamba_d_head": 7}, "mamba_d_head is 7; it must be"),
        ({"model_type": "adamba", **HYBRID, "mamba_rms_norm": True}, "an Adamba cannot have it"),
        ({"hidden_size": 32}, "set model.path, or set model.config with a model_type"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_training_planning_and_showing_refuse_the_same(config: dict[str, Any], says: str) -> None:
    sizes = TINY if config.get("model_type") != "gpt2" else {}
    recipe = Recipe.model_validate({"name": "x", "model": {"config": {**sizes, **config}}})
    refused = []
    for asks in (
        lambda: check_model(recipe.model),
        lambda: shape_of(recipe),
        lambda: from_scratch(recipe.model, 96, seed=1),
    ):
        with pytest.raises(UserError) as caught:
            asks()
        refused.append(str(caught.value))
    assert len(set(refused)) == 1 and says in refused[0]


@pytest.mark.parametrize("model_type", list(filter(sized_by_table, CONFIG_CLASSES)))
def test_a_table_lets_nothing_through_that_the_class_refuses(model_type: str) -> None:
    good = {
        "model_type": model_type,
        **TINY,
        **(HYBRID if "mamba_d_ssm" in fields_of(CONFIG_CLASSES[model_type]) else {}),
    }
    check_model(Model(config=good))
    for name, field in fields_of(CONFIG_CLASSES[model_type]).items():
        if "object" in field.get("type", []):
            continue  # of the base class, or rotary options, which only their own validator knows
        for value in ("x", 1, 1.5, None, True, -1):
            config = good | {name: value}
            try:
                AutoConfig.for_model(**config)
            except Exception:
                with pytest.raises(UserError):
                    check_model(Model(config=config))


def test_every_shipped_recipe_passes() -> None:
    recipes = [load_recipe(name) for name in recipe_names()]
    made = [recipe for recipe in recipes if recipe.model.config]
    assert len(made) >= 5
    for recipe in made:
        check_model(recipe.model)


def test_show_refuses_what_train_refuses() -> None:
    arguments = ["show", "aj/tiny_base", "model.config.hidden_sise=3"]
    run = subprocess.run([sys.executable, "-m", "agentforge", *arguments], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "did you mean 'hidden_size'" in run.stderr
