"""Which config.json is a Cognate's, and what does not go together in one. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.errors import UserError

OWN_TYPE = "cognate"

_AT_LEAST_ONE = (
    "num_core_layers", "num_attention_heads", "head_dim", "sliding_window", "memory_heads", "memory_head_dim",
    "memory_conv_kernel", "gate_rank", "max_recursions", "micro_steps",
)  # fmt: skip


def is_cognate(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is a Cognate's."""
    return config.get("model_type") == OWN_TYPE


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse what no Cognate can be.

    Raises:
        UserError: a field is out of its range.
    """
    for name in _AT_LEAST_ONE:
        if name in config and config[name] < 1:
            raise UserError(f"model.config.{name}: {config[name]} is too few; it is at least 1")
    if config.get("head_dim", 64) % 2:
        raise UserError("model.config.head_dim: rotary positions turn pairs of channels, so it must be even")
    skipped, recursions = config.get("no_grad_recursions", 0), config.get("max_recursions", 3)
    if not 0 <= skipped < recursions:
        raise UserError(
            f"model.config.no_grad_recursions: {skipped} of {recursions} recursions without gradient leaves none that "
            "learns; it is at least 0 and less than max_recursions"
        )
    threshold = config.get("exit_threshold")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(
            f"model.config.exit_threshold: {threshold} is no probability; it is 0 to 1, and higher thinks longer"
        )
    if threshold is not None and config.get("halting") == "none":
        raise UserError("model.config.exit_threshold: a model with halting: none has no probabilities to compare it to")


def gguf_refusal(config: Mapping[str, Any]) -> str:
    """Say why a Cognate has no GGUF."""
    return "llama.cpp has no layers with a neural memory and no loop; serve the checkpoint with transformers instead"


CONVOLUTIONS = ("q_conv", "k_conv", "v_conv")
"""Modules of a memory whose weights are read and which are never called."""


def adapter_refusal(config: Mapping[str, Any], name: str) -> str | None:
    """Say why no adapter may change a convolution of a memory: what PEFT puts around it would never be run."""
    if any(f".memory.{convolution}." in f"{name}." for convolution in CONVOLUTIONS):
        return (
            "a memory reads only the weights of its convolutions, and would not run the adapter; train one without "
            f"{', '.join(CONVOLUTIONS)}"
        )
    return None
