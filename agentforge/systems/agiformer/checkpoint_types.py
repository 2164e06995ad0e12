"""Which config.json is an AGIFORMER's, and what cannot be done with one. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.errors import UserError

OWN_TYPE = "agiformer"
BYTES = 256
SPECIAL = ("<|pad|>", "<|begin|>", "<|end|>")
"""Tokens behind the 256 bytes, in the order of their ids."""
VOCABULARY = BYTES + len(SPECIAL)

PRESETS: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4},
    "medium": {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8},
    "large": {"hidden_size": 768, "num_hidden_layers": 8, "num_attention_heads": 12},
}
"""The specification's sizes."""


HEADS = "num_attention_heads"
MOST_FOLDS = 62
"""Of counted n-grams: one bit each of an integer."""


def is_agiformer(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is an AGIFORMER's."""
    return config.get("model_type") == OWN_TYPE


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse fields that do not go together.

    Raises:
        UserError: the sentence names the field.
    """
    preset = config.get("preset")
    if preset is not None and preset not in PRESETS:
        raise UserError(f"model.config.preset: '{preset}' is not one of {', '.join(PRESETS)}")
    for name, least in {"patch_size": 1, "window_size": 1, "thinking_steps": 0, "byte_window": 2}.items():
        if (value := config.get(name, least)) < least:
            raise UserError(f"model.config.{name}: {value} is below {least}")
    for name in ("ngram_sizes", "counted_sizes"):
        for size in config.get(name) or ():
            if size < 1:
                raise UserError(f"model.config.{name}: an n-gram has at least 1 byte, not {size}")
    if not 2 <= (folds := config.get("counted_folds", 2)) <= MOST_FOLDS:
        raise UserError(f"model.config.counted_folds: {folds} is not between 2 and {MOST_FOLDS}")
    width, heads = (config.get(name) or PRESETS[preset or "medium"][name] for name in ("hidden_size", HEADS))
    if width % (2 * heads):
        raise UserError(
            f"model.config.hidden_size: {width} channels do not make {heads} heads of an even size, as rotary "
            f"positions need; take a multiple of {2 * heads}"
        )


def gguf_refusal(config: Mapping[str, Any]) -> str | None:
    """Return why llama.cpp cannot run the model."""
    if not is_agiformer(config):
        return None
    return "llama.cpp has no architecture that reads bytes in patches; open the checkpoint with agentforge instead"
