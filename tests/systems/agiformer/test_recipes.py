"""The controls are what their names say."""

from __future__ import annotations

import pytest
import torch

from agentforge.recipe.loading import load_recipe
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig


def config_of(recipe: str, profile: str | None) -> AgiformerConfig:
    fields = dict(load_recipe(recipe, [], profile).model.config)
    assert fields.pop("model_type") == "agiformer"
    return AgiformerConfig(**fields)


def weights(config: AgiformerConfig) -> tuple[int, int]:
    """Return parameters, and weights that are multiplied for each patch: those of the thinking steps K times."""
    with torch.device("meta"):
        model = AgiformerForCausalLM(config)
    size = sum(weight.numel() for weight in model.parameters())
    of_patches = sum(weight.numel() for weight in model.model.layers.parameters())
    if model.model.thinking is not None:
        of_patches += config.thinking_steps * sum(weight.numel() for weight in model.model.thinking.parameters())
    return size, of_patches


@pytest.mark.parametrize("profile", [None, "tiny"])
def test_controls_have_equal_parameters_and_equal_flops(profile: str | None) -> None:
    thinking, same_parameters, same_flops = (
        weights(config_of(f"agiformer/{name}", profile)) for name in ("bytes", "same_parameters", "same_flops")
    )
    assert same_parameters[0] == pytest.approx(thinking[0], rel=0.002)
    assert same_flops[1] == pytest.approx(thinking[1], rel=0.002)


@pytest.mark.parametrize(("preset", "millions"), [("small", 6), ("medium", 31), ("large", 83)])
def test_the_specification_s_sizes(preset: str, millions: int) -> None:
    size, _ = weights(AgiformerConfig(preset=preset))
    print(preset, size)
    assert size / 1e6 == pytest.approx(millions, rel=0.1)
