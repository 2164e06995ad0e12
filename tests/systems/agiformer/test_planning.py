"""What `plan` says of an AGIFORMER, against what a forward pass really multiplies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from agentforge.errors import UserError
from agentforge.models.config_check import check_model
from agentforge.planning.flops import flops_per_token
from agentforge.planning.meta import packs_by_default
from agentforge.planning.parameters import count_parameters
from agentforge.planning.shapes import shape_of
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.schema import Model, Recipe
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig

LENGTH = 256


def recipe_of(**config: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "A",
            "model": {"config": {"model_type": "agiformer", "preset": "small", **config}},
            "data": {"max_length": LENGTH},
            "train": {"method": "pretrain", "args": {"max_steps": 1}},
        }
    )


@pytest.mark.parametrize(
    "config", [{}, {"thinking_steps": 0}, {"patch_size": 8}, {"linear_attention": False}, {"ngram_sizes": [2, 3]}]
)
def test_a_step_costs_what_a_forward_pass_multiplies(config: dict[str, Any]) -> None:
    recipe = recipe_of(**config)
    model = AgiformerForCausalLM(AgiformerConfig(preset="small", **config)).eval()
    assert count_parameters(shape_of(recipe)).total == sum(weight.numel() for weight in model.parameters())
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.zeros(1, LENGTH, dtype=torch.long), use_cache=False)
    said = flops_per_token(recipe, shape_of(recipe), recompute=False) / 3
    assert said == pytest.approx(counter.get_total_flops() / LENGTH, rel=0.1)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"thinking_step": 3}, "a agiformer has no field 'thinking_step'; did you mean 'thinking_steps'"),
        ({"byte_decoder": "lstm"}, r"model\.config\.byte_decoder is .*lstm"),
        ({"preset": "huge"}, "'huge' is not one of small, medium, large"),
        ({"patch_size": 0}, r"model\.config\.patch_size: 0 is below 1"),
        ({"ngram_sizes": [2, 0]}, "an n-gram has at least 1 byte, not 0"),
        ({"hidden_size": 100}, "100 channels do not make 8 heads of an even size.* take a multiple of 16"),
    ],
)
def test_fields_are_checked_without_the_class(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_model(Model(config={"model_type": "agiformer", **config}))


def test_the_card_that_the_specification_names_is_here() -> None:
    card = load_hardware("1xt4")
    assert card.gpu == "T4" and card.memory_gib < 16 and card.dollars_per_gpu_hour > 0


def test_plan_packs_as_training_does() -> None:
    assert not packs_by_default(AgiformerConfig(preset="small").to_json_string())
