"""From `train.args` to the parent library's config object: what we fill in where the recipe says nothing, and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, get_scheduler

from agentforge.errors import UserError, first_line
from agentforge.planning.memory import needs_gradient_checkpointing
from agentforge.recipe.methods import METHODS
from agentforge.recipe.optimizers import preset_arguments
from agentforge.recipe.schema import Recipe

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
    if given.get("save_total_limit") == 1:
        raise UserError(
            "train.args.save_total_limit: 1 would delete the last good checkpoint before the next is complete; give 2"
        )
    ours = {key: given.pop(key) for key in OURS & given.keys()}
    if ours.get("packing_strategy", "bfd") != "bfd":
        raise UserError("train.args.packing_strategy: only 'bfd' keeps every conversation whole; leave it out")
    given.pop("gradient_checkpointing", None)  # `_defaults` has it under its new name
    if given.get("bf16", False) is None:
        del given["bf16"]  # left to the hardware; TRL would read it as true
    chosen = recipe.train.optimizer
    preset = {} if chosen is None else preset_arguments(chosen.name, chosen.options)
    merged = {**_defaults(recipe, evaluates), **(defaults or {}), **preset, **given, "output_dir": str(output_dir)}
    if "max_length" in config_class.__dataclass_fields__:
        merged["max_length"] = recipe.data.max_length  # TRL's own default would be 1024
    try:
        parent = config_class(**merged)
    except (ValueError, TypeError) as error:
        raise UserError(f"train.args: {first_line(error)}") from error
    _check_schedule(parent)
    # TRL has packing of its own, which pads nothing but joins a batch into one row (see `examples`)
    packing = ours.get("packing", ours.get("padding_free"))
    return Arguments(parent, packing, bool(ours.get("assistant_only_loss", recipe.train.method == "sft")))


def _check_schedule(args: TrainingArguments) -> None:
    # the parent makes the schedule after the model is loaded and the rows are packed
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    kwargs = args.lr_scheduler_kwargs
    if isinstance(kwargs, str):  # the parent has read the JSON of text already
        return
    if args.lr_scheduler_type == "reduce_lr_on_plateau":
        return
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=dict(kwargs or {}))
    except (TypeError, ValueError) as error:
        schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise UserError(
            f"train.args.lr_scheduler_kwargs {kwargs} do not fit lr_scheduler_type {schedule}: {error}"
        ) from error


def _bf16_pays(recipe: Recipe) -> bool:
    """Tell whether the hardware multiplies in bf16: half the time of fp32. Other CPUs emulate it, and take longer."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    if not METHODS[recipe.train.method].supervised:
        return False  # episodes are sampled in fp32: the update must see the same probabilities
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _defaults(recipe: Recipe, evaluates: bool) -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    given = recipe.train.args
    return {
        # The same seed twice: the order of the data must not change when somebody draws another initialisation.
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "bf16": _bf16_pays(recipe) and not given.get("fp16"),
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        **({} if gpu or "WORLD_SIZE" not in os.environ else {"ddp_backend": "gloo"}),
        # Buffers of language models are constants (rotary frequencies, attention that is dropped): DDP would send them
        # from the first process to the others before every forward pass.
        "ddp_broadcast_buffers": False,
        # Recomputing activations costs a third more time: only where the plan says the run does not fit without.
        # Given under its new name, because TRL sets the old one to True where the new one is left open.
        "activation_checkpointing": given["gradient_checkpointing"]
        if "gradient_checkpointing" in given
        else gpu and needs_gradient_checkpointing(recipe),
        # HF's default counts a NaN loss as the average of the others, or as 0.
        "logging_nan_inf_filter": False,
        # Not "all": nothing leaves the machine unless the recipe asks for it. `metrics.jsonl` is always written.
        "report_to": [],
        # Trackers would draw a name by lot, and file the run under "huggingface".
        "run_name": recipe.trained.name,
        "project": "agentforge",
        "disable_tqdm": True,
        # The rows have only the columns that the collator needs; the parent would drop the lengths of packed documents.
        "remove_unused_columns": False,
        "logging_steps": 10,
        # Two, so that there is always a complete one while the next is written.
        "save_total_limit": 2,
        "eval_strategy": "steps" if evaluates else "no",
        "eval_steps": given.get("save_steps", 500),
        "per_device_eval_batch_size": given.get("per_device_train_batch_size", 8),
    }
