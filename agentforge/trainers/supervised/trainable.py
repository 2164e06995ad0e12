"""`train.trainable`: what no pattern fits is frozen."""

from __future__ import annotations

from torch import nn

from agentforge.recipe.name_patterns import matching


def freeze_all_but(model: nn.Module, patterns: list[str]) -> None:
    """Freeze all parameters that no pattern fits; without patterns nothing changes.

    Raises:
        UserError: a pattern fits none.
    """
    if patterns:
        trained = matching([name for name, _ in model.named_parameters()], patterns)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
