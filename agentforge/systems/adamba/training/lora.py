"""What LoRA must leave alone in an Adamba."""

from __future__ import annotations

import logging
import re
from typing import Any

from torch import nn

from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.dropped_attention import dropped_projections

log = logging.getLogger(__name__)


def lora_options(model: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Return `peft.LoraConfig`'s fields with the attention that is not run in `exclude_modules`.

    ``target_modules: [q_proj]`` means the `q_proj` of every layer, and peft refuses those that are no `nn.Linear`. What
    is left out is logged and stands in the adapter's own config.

    Raises:
        UserError: a target exists only where attention is dropped.
    """
    dropped = dropped_projections(model)
    if not dropped:
        return options
    layers = ", ".join(sorted({name.split(".")[2] for name in dropped}, key=int))
    targets = options.get("target_modules")
    names = [name for name, _ in model.named_modules() if name not in set(dropped)]
    for target in [] if isinstance(targets, str) else targets or []:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(
                f"train.lora.target_modules: every {target} is in attention that is dropped (layers {layers}) and not "
                "run; leave it out"
            )
    log.info("LoRA skips the attention of layers %s, because it is dropped", layers)
    given = options.get("exclude_modules") or []
    if isinstance(given, str):  # a regular expression over whole names
        return options | {"exclude_modules": "|".join([f"(?:{given})", *map(re.escape, dropped)])}
    return options | {"exclude_modules": [*given, *dropped]}
