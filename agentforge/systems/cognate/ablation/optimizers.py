"""Muon, Grokfast or both: our optimiser as the arms use it; and what is decayed, in every arm alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from agentforge.systems.cognate.ablation.arms import Arm


def decay_groups(weights: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return groups in which matrices are decayed and vectors (norms, biases) are not.

    The same rule in every arm: with the strong decay of the grokking task, an arm that also shrinks its norms would
    differ from the others in more than its optimiser.
    """
    everything = list(weights)
    matrices = [weight for weight in everything if weight.ndim >= 2]
    vectors = [weight for weight in everything if weight.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_mugrokfast(model: nn.Module, arm: Arm, rate: float, betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Return the optimiser of an arm that PyTorch's AdamW does not train.

    Muon has the hidden matrices alone, as everywhere in this house; embeddings, head, gates, convolutions and vectors
    are AdamW's. So "Muon against AdamW" is about the matrices, and both share one rate, which Moonlight's scale allows.
    """
    from agentforge.optim.mugrokfast import MuGrokfast
    from agentforge.optim.parameter_split import split_parameters

    hidden = split_parameters(model).hidden if arm.optimizer == "muon" else []
    chosen = {id(weight) for weight in hidden}
    others = [weight for weight in model.parameters() if id(weight) not in chosen]
    groups = decay_groups(others, arm.weight_decay)
    if hidden:
        groups.append({"params": hidden, "weight_decay": arm.weight_decay, "use_muon": True})
    return MuGrokfast(groups, lr=rate, betas=betas, grokfast_lambda=arm.grokfast)
