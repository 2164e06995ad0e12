"""A Cognate of a few thousand parameters through which every path matters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM

VOCABULARY = 50


def tiny_config(**fields: Any) -> CognateConfig:
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 32, "num_prelude_layers": 1,
        "num_core_layers": 2, "num_attention_heads": 2, "head_dim": 8, "sliding_window": 4, "memory_heads": 2,
        "memory_head_dim": 8, "persistent_tokens": 2, "gate_rank": 4, "pad_token_id": 0,
    }  # fmt: skip
    return CognateConfig(**(sizes | fields))


def tiny_cognate(seed: int = 0, **fields: Any) -> CognateForCausalLM:
    """Return a model in evaluation mode whose layers write as much as they read, and whose tokens halt at all steps."""
    torch.manual_seed(seed)
    model = CognateForCausalLM(tiny_config(**fields)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            # as initialised, a projection keeps a tenth of the signal, and a leak would be lost in rounding
            if weight.dim() == 2 and weight.shape[0] > 3:
                weight.normal_(std=weight.shape[1] ** -0.5)
        if model.model.halting_head is not None:
            model.model.halting_head.weight.normal_(std=0.7)
            model.model.halting_head.bias.fill_(-0.5)
    return model


def some_ids(rows: int, length: int, seed: int = 1) -> Tensor:
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
