"""`train.trainable`: patterns of parameters' names; what no pattern fits is frozen."""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from agentforge.errors import UserError, did_you_mean
from agentforge.models.build import empty_model
from agentforge.recipe.schema import Recipe


def check_trainable(recipe: Recipe) -> None:
    """Refuse patterns before the weights are loaded.

    Raises:
        UserError: a pattern fits no parameter, or LoRA has frozen everything already.
    """
    patterns = recipe.train.trainable
    if not patterns:
        return
    if recipe.train.lora is not None:
        raise UserError("train.trainable trains the weights themselves; leave train.lora out")
    matching(empty_model(recipe.model), patterns)


def freeze_all_but(model: nn.Module, patterns: list[str]) -> None:
    """Freeze all parameters that no pattern fits; without patterns nothing changes."""
    if patterns:
        trained = matching(model, patterns)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)


def matching(model: nn.Module, patterns: list[str]) -> set[str]:
    """Return the names of parameters that one of the patterns fits.

    Raises:
        UserError: a pattern fits none.
    """
    names = [name for name, _ in model.named_parameters()]
    found = set()
    for pattern in patterns:
        # `*` runs over dots too: `*.mlp.*` fits `model.layers.0.mlp.up_proj.weight`.
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            words = sorted({word for name in names for word in name.split(".") if not word.isdigit()})
            hint = did_you_mean(pattern.strip("*."), words)
            raise UserError(f"train.trainable: no parameter matches '{pattern}'{hint}")
        found |= fitting
    return found
