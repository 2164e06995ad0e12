"""The optimisers of the arms: PyTorch's AdamW, and ours with Muon, Grokfast or both."""

from __future__ import annotations

import torch
from torch import nn

from agentforge.systems.cognate.ablation.arms import Arm

BETAS = (0.9, 0.95)


def make_optimizer(model: nn.Module, arm: Arm, rate: float) -> torch.optim.Optimizer:
    """Return the optimiser of an arm.

    Muon has the hidden matrices alone, as everywhere in this house; embeddings, head, gates, convolutions and vectors
    are AdamW's. So "Muon against AdamW" is about the matrices, and both share one rate, which Moonlight's scale allows.
    """
    if not arm.own_optimizer:
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=arm.weight_decay, betas=BETAS)
    from agentforge.optim.mugrokfast import MuGrokfast

    matrices = hidden_matrices(model) if arm.optimizer == "muon" else []
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    groups = [{"params": matrices, "use_muon": True}, {"params": others}]
    return MuGrokfast(
        [group for group in groups if group["params"]],
        lr=rate,
        weight_decay=arm.weight_decay,
        betas=BETAS,
        grokfast_lambda=arm.grokfast,
    )


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    return [
        w
        for n, w in model.named_parameters()
        if w.ndim == 2 and (".prelude." in n or ".core." in n) and "gate" not in n.split(".")[-2]
    ]
