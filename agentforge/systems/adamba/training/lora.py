"""What LoRA must leave alone in an Adamba."""

from __future__ import annotations

from typing import Any

from torch import nn

from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.nanochat_layers import NormedEmbedding, SoftcappedHead


def lora_options(model: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Return `peft.LoraConfig`'s fields for a model.

    Raises:
        UserError: a target bends what it returns, so that its LoRA could not be merged.
    """
    targets = options.get("target_modules")
    named = set() if isinstance(targets, str) else set(targets or [])
    if bent := sorted(_bent_outputs(model) & named):
        raise UserError(
            f"train.lora.target_modules: {', '.join(bent)} of this nanochat graft bends what it returns, so its LoRA "
            "could not be merged; leave it out"
        )
    return options


def _bent_outputs(model: nn.Module) -> set[str]:
    bent = (NormedEmbedding, SoftcappedHead)
    return {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, bent)}
