"""The optimisers of the arms."""
from __future__ import annotations
import torch
from torch import nn
from agentforge.systems.cognate.ablation.arms import Arm

def make_optimizer(model: nn.Module, arm: Arm, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=arm.weight_decay, betas=(0.9, 0.95))
