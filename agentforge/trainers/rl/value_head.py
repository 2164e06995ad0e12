"""The critic: two layers on the policy's last hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

NAME = "value_head"
GAIN = 10.0
"""Factor on the values. Adam moves a weight by about the learning rate whatever its gradient is, and the critic, which
begins at 0, has further to go in the run than the policy: this is ten times the policy's rate for it."""


class ValueHead(nn.Module):
    """Two-layer MLP `(B, T, H)` to `(B, T)`, in fp32. It begins by saying 0: no advantage comes from its weights."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.out(torch.tanh(self.hidden(hidden_states.to(self.hidden.weight.dtype))))
        return GAIN * values.squeeze(-1)


def backbone_of(model: nn.Module) -> nn.Module:
    """Return the model without its head, whose output has the last hidden states; under LoRA: with its adapters."""
    causal = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(causal, PreTrainedModel)
    backbone: nn.Module = causal.base_model
    return backbone


@contextmanager
def last_hidden_states(backbone: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect `(B, T, H)` of each forward inside the block: the critic reads what the policy has computed anyway."""
    seen: list[torch.Tensor] = []
    handle = backbone.register_forward_hook(lambda module, args, output: seen.append(output.last_hidden_state))
    try:
        yield seen
    finally:
        handle.remove()
