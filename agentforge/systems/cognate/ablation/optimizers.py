"""Muon, Grokfast or both: our optimiser as the arms use it."""

from __future__ import annotations

import torch
from torch import nn

from agentforge.systems.cognate.ablation.arms import Arm


def make_mugrokfast(model: nn.Module, arm: Arm, rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Return the optimiser of an arm that PyTorch's AdamW does not train.

    Muon has the hidden matrices alone, as everywhere in this house; embeddings, head, gates, convolutions and vectors
    are AdamW's. So "Muon against AdamW" is about the matrices, and both share one rate, which Moonlight's scale allows.
    """
    from agentforge.optim.mugrokfast import MuGrokfast

    matrices = hidden_matrices(model) if arm.optimizer == "muon" else []
    chosen = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    groups = [{"params": matrices, "use_muon": True}, {"params": others}]
    return MuGrokfast(
        [group for group in groups if group["params"]],
        lr=rate,
        weight_decay=arm.weight_decay,
        betas=betas,
        grokfast_lambda=arm.grokfast,
    )


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices of the layers, without those of gates."""
    layers = (*model.model.prelude, *model.model.core)
    return [
        weight
        for layer in layers
        for name, weight in layer.named_parameters()
        if weight.ndim == 2 and not name.startswith(("gate.", "memory.gates."))
    ]
