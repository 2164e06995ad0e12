"""What LoRA must leave alone in a Cognate."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from agentforge.errors import UserError
from agentforge.systems.cognate.checkpoint_types import CONVOLUTIONS, adapter_refusal


def lora_options(model: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Return `peft.LoraConfig`'s fields as they are.

    Raises:
        UserError: a target is a convolution of a memory. The memory reads its weight and never calls it, so the adapter
            would have no effect and no gradient, and nobody would be told.
    """
    targets = options.get("target_modules") or []
    names = [name for name, _ in model.named_modules() if adapter_refusal({}, name) is not None]
    if isinstance(targets, str):
        hit = [name for name in names if targets != "all-linear" and re.fullmatch(targets, name)]
    else:
        hit = [target for target in targets if any(f".{name}".endswith(f".{target}") for name in names)]
    if hit:
        raise UserError(
            f"train.lora.target_modules: {hit[0]} is a convolution of a memory, which reads its weight and would not "
            f"run an adapter on it; leave out {', '.join(CONVOLUTIONS)}"
        )
    return options
