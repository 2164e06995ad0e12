"""Bases: which one a machine has room for, and how large one is."""

from __future__ import annotations

from typing import Any

from agentforge.errors import UserError
from agentforge.planning.parameters import count_parameters
from agentforge.planning.shapes import config_of, shape_from_config
from agentforge.recipe.hardware import Hardware
from agentforge.recipe.schema import Recipe

SCRATCH = "scratch"
SUGGESTIONS = (
    (70, "Qwen/Qwen2.5-7B-Instruct"),
    (20, "Qwen/Qwen2.5-3B-Instruct"),
    (0, "Qwen/Qwen2.5-0.5B-Instruct"),
)
"""GiB of one GPU from which LoRA in bf16 has room for rows of 2048 tokens, and a base of that size."""
ON_A_CPU = "HuggingFaceTB/SmolLM2-135M-Instruct"

SMALL: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "initializer_range": 0.0625,
}
"""A model that two cores train in minutes; its size is that of `aj/tiny_base`.

Its weights begin at one over the root of the width and not at transformers' 0.02, which suits one of some thousands:
begun there, a model a quarter as wide learnt nothing of a small file in the steps that `init` gives it.
"""
SMALL_VOCABULARY = 2048


def suggested_base(hardware: Hardware) -> str:
    """Return a base that LoRA trains on this hardware."""
    if not hardware.gpus:
        return ON_A_CPU
    return next(base for gib, base in SUGGESTIONS if hardware.memory_gib >= gib)


def size_of(recipe: Recipe) -> tuple[int | None, int | None]:
    """Return the parameters of a recipe's base, and the tokens that it can read; None for what nothing here says."""
    try:
        config = config_of(recipe)
    except UserError:
        return None, None  # a Hub id whose files are not here yet: `download` is the first stage
    positions = config.get("max_position_embeddings")
    try:
        parameters = count_parameters(shape_from_config(config)).total
    except UserError:
        parameters = None
    return parameters, positions if isinstance(positions, int) else None
