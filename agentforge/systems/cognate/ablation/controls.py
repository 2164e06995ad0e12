"""What the real model is compared with and measured by: an EMA in place of each memory, and the FLOPs of a token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from agentforge.systems.cognate.ablation.tasks.base import Batch
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM

KEPT = 0.99
"""Share of the average that stays at each token; the first implementation of Cognate had this figure."""


class EmaMemory(nn.Module):
    """A memory without addresses: an exponential moving average of what is written, read as a whole.

    This was the long-term memory of Cognate's first implementation. It has the interface of `NeuralMemory`, but it
    cannot say which value belongs to which key: it is a bag of values.
    """

    def __init__(self, config: CognateConfig) -> None:
        super().__init__()
        width = config.memory_heads * config.memory_head_dim
        self.down_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.up_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(
        self, x: Tensor, state: Any = None, starts: Tensor | None = None, padding: Tensor | None = None
    ) -> tuple[Tensor, Any, dict[str, Tensor]]:
        """Return the read average `(B, T, D)` of `x` `(B, T, D)`: rows of one document, without padding or a cache."""
        assert state is None and starts is None and padding is None
        age = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        weights = torch.where(age >= 0, (1 - KEPT) * KEPT ** age.clamp(min=0), 0.0)
        nothing = x.new_zeros(x.shape[:2])
        return self.up_proj(weights @ self.down_proj(x)), None, {"surprise": nothing, "decay": nothing + KEPT}


def replace_memories(model: CognateForCausalLM) -> None:
    """Put an `EmaMemory` in the place of every neural memory."""
    for layer in (*model.model.prelude, *model.model.core):
        if layer.memory is not None:
            layer.memory = EmaMemory(model.config)
            layer.memory.apply(model._init_weights)


@torch.no_grad()
def flops_per_token(model: CognateForCausalLM, batch: Batch) -> float:
    """Return the multiplications and additions of a forward pass at full depth, for each token of a batch."""
    model.eval()
    # The fused attention of the CPU is unknown to PyTorch's counter; written out, its two products are counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(input_ids=batch.input_ids, exit_threshold=None, use_cache=False)
    return counter.get_total_flops() / batch.input_ids.numel()
