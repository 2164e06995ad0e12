"""From `train.args` to the parent library's config object: what we fill in where the recipe says nothing, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import is_torch_tf32_available

from agentforge.errors import UserError, first_line
from agentforge.planning.train_defaults import Device, cpu_has_bf16, training_defaults
from agentforge.recipe.optimizers import preset_arguments
from agentforge.recipe.schema import Recipe
from agentforge.trainers.launch import strategy_arguments, wanted_strategy

# Keys that TRL would act on while it tokenises and packs; here `prepare` has tokenised and `examples` packs.
OURS = {"packing", "packing_strategy", "padding_free", "assistant_only_loss"}


@dataclass(frozen=True)
class Arguments:
    """What the stage runs with.

    Attributes:
        parent: the `TrainingArguments` or `SFTConfig`.
        packing: the recipe's wish; None leaves it to the model.
        assistant_only_loss: train on the tokens whose `assistant_masks` is 1, or on all.
    """

    parent: TrainingArguments
    packing: bool | None
    assistant_only_loss: bool


def build_arguments(
    recipe: Recipe,
    config_class: type[TrainingArguments],
    output_dir: Path,
    *,
    evaluates: bool,
    defaults: Mapping[str, Any] | None = None,
) -> Arguments:
    """Return the arguments of one run.

    Args:
        recipe: `train.args` is taken as it is; defaults are only filled in.
        config_class: `TrainingArguments` or `SFTConfig`.
        output_dir: where the checkpoints go.
        evaluates: there is an eval split.
        defaults: the method's own.

    Raises:
        UserError: a value that would undo what this stage promises, or that the parent refuses.
    """
    given = dict(recipe.train.args)
    ours = {key: given.pop(key) for key in OURS & given.keys()}
    given.pop("gradient_checkpointing", None)  # `_defaults` has it under its new name
    for key in ("bf16", "report_to"):  # left to the hardware; none: transformers and TRL read them otherwise
        if key in given and given[key] is None:
            del given[key]
    chosen = recipe.train.optimizer
    preset = {} if chosen is None else preset_arguments(chosen.name, chosen.options)
    merged = {**_defaults(recipe, evaluates), **(defaults or {}), **preset, **given, "output_dir": str(output_dir)}
    merged |= strategy_arguments(recipe)
    if "max_length" in config_class.__dataclass_fields__:
        merged["max_length"] = recipe.data.max_length  # TRL's own default would be 1024
    try:
        parent = config_class(**merged)
    except (ValueError, TypeError) as error:
        raise UserError(f"train.args: {first_line(error)}") from error
    # TRL has packing of its own, which pads nothing but joins a batch into one row (see `examples`)
    packing = ours.get("packing", ours.get("padding_free"))
    return Arguments(parent, packing, bool(ours.get("assistant_only_loss", recipe.train.method == "sft")))


def _defaults(recipe: Recipe, evaluates: bool) -> dict[str, Any]:
    defaults = training_defaults(recipe, _device_here(), wanted_strategy(recipe), evaluates=evaluates)
    values = {key: default.value for key, default in defaults.items()}
    on_cpus = not torch.cuda.is_available() and "WORLD_SIZE" in os.environ
    return values | ({"ddp_backend": "gloo"} if on_cpus else {})


def _device_here() -> Device:
    """Return what the device here can do, whatever the recipe's hardware is."""
    if not torch.cuda.is_available():
        return Device(False, cpu_has_bf16(), False)
    return Device(True, torch.cuda.is_bf16_supported(), is_torch_tf32_available())
