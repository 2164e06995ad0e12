"""What is left of the attention of a layer that does not attend: its place in the checkpoint.

Three parties must agree on such a layer. The Adamba does not run its attention. Plain FalconH1, which opens the same
file, does run it, and adds nothing only if `o_proj` is zero. And whatever trains the model must leave it alone: this
attention never gets a gradient, and DDP waits for the gradient of every parameter. A frozen `nn.Linear` does not
hold: `from_pretrained` makes new parameters, `requires_grad_(True)` thaws them, LoRA lands on them. To all of these a
buffer is no parameter, so here the weights are buffers, and `o_proj` is zero whenever it leaves the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agentforge.errors import CheckRefused
from agentforge.systems.adamba.modeling.configuration import AdambaConfig

log = logging.getLogger(__name__)


class DroppedProjection(nn.Module):
    """A projection that is stored and never run. Its values are kept: they are what the base had."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs))
        self.register_buffer("bias", torch.zeros(outputs) if bias else None)


class DroppedOutput(DroppedProjection):
    """The output projection: zero in every state dict, so that plain FalconH1 adds nothing in this layer."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # Zeroed here rather than in the buffer: whatever was loaded into it, `save_pretrained`, Trainer and FSDP all
        # get their weights through this method.
        for name in [name for name in destination if name.startswith(prefix)]:
            value = destination[name]
            if not value.is_meta and bool(value.any()):
                log.warning("%s is written as zeros, because this layer's attention is dropped", name)
            destination[name] = torch.zeros_like(value)


class DroppedAttention(nn.Module):
    """The four projections of an attention that is not run, under their names in a FalconH1 checkpoint."""

    def __init__(self, config: AdambaConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        hidden, bias, head_dim = config.hidden_size, config.attention_bias, config.head_dim or 0
        queries, keys = config.num_attention_heads * head_dim, (config.num_key_value_heads or 0) * head_dim
        self.q_proj = DroppedProjection(hidden, queries, bias)
        self.k_proj = DroppedProjection(hidden, keys, bias)
        self.v_proj = DroppedProjection(hidden, keys, bias)
        self.o_proj = DroppedOutput(queries, hidden, bias)


def output_names(config: Any) -> set[str]:
    """Return the names of the tensors that are zero in a checkpoint of this config."""
    return {
        f"model.layers.{layer}.self_attn.o_proj.{parameter}"
        for layer in getattr(config, "dropped_attention", None) or []
        for parameter in ("weight", "bias")
    }


def dropped_projections(model: nn.Module) -> list[str]:
    """Return the names of a model's projections that are not run."""
    return [name for name, module in model.named_modules() if isinstance(module, DroppedProjection)]


def check_silent(config: Any, where: Path | str, read: Callable[[str], Tensor | None]) -> None:
    """Refuse weights whose attention is dropped in the config but heard by plain FalconH1.

    Plain transformers does not know `dropped_attention`: it trains that attention on, and keeps the key in the config.

    Args:
        config: of the model.
        where: the checkpoint, for the message.
        read: gives a tensor by its name, or None where there is none to be had.

    Raises:
        CheckRefused: the output projection of such a layer is not zero.
    """
    for name in sorted(output_names(config)):
        value = read(name)
        if value is not None and not value.is_meta and bool(value.any()):
            layer = name.split(".")[2]
            raise CheckRefused(
                f"{where}: config.json says that layer {layer} has no attention (dropped_attention), but {name} is not "
                f"zero, so transformers would run it; take {layer} out of dropped_attention to keep this attention, or "
                "run `agentforge surgery` with operation drop_attention on a base that has it"
            )
