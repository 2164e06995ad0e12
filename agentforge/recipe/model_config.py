"""What is wrong with the sizes in a model's config, before a library divides by them or multiplies words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.recipe.arguments import show_value

# Names that the config classes of transformers share. Other fields are the class's own to check.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "mamba_d_ssm",
    "mamba_n_heads",
    "mamba_d_state",
    "mamba_n_groups",
    "mamba_d_conv",
)
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias")


def config_problems(config: Mapping[str, Any], *, layered: bool = False) -> list[tuple[str, str]]:
    """Return the fields of a config that cannot be right: the field, and a sentence without its name.

    Args:
        config: fields of a transformers config; null is a field that is not given.
        layered: a list of sizes, one for each layer, is fine, as some architectures have them.
    """
    given = {name: value for name, value in config.items() if value is not None}
    found = []
    if not isinstance(given.get("model_type", ""), str):
        found.append(("model_type", f"is {show_value(given['model_type'])}; it must be text"))
    for name in SIZES:
        value = given.get(name, 1)
        if not _is_size(value) and not (layered and isinstance(value, list) and value and all(map(_is_size, value))):
            found.append((name, f"is {show_value(value)}; it must be a whole number of at least 1"))
    found += [
        (name, f"is {show_value(given[name])}; it must be true or false")
        for name in SWITCHES
        if not isinstance(given.get(name, False), bool)
    ]
    return found


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1
