"""From `train.args` to the parent library's config object: what we fill in where the recipe says nothing, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from agentforge.errors import UserError
from agentforge.recipe.schema import Recipe

# Keys that TRL would act on while it tokenises and packs; here `prepare` has tokenised and `examples` packs.
OURS = {"packing", "packing_strategy", "padding_free", "assistant_only_loss"}

REFUSED = {
    "output_dir": "the directory follows from the recipe's name and version; set `output_dir` at the top of the recipe",
    "resume_from_checkpoint": "a stopped run goes on by itself when the same command is run again",
    "save_only_model": "such a checkpoint cannot be resumed from; leave it out",
    "push_to_hub": "a run that uploads while it trains cannot be undone; use `agentforge push`",
    "hub_token": "a token must not lie in a recipe or a checkpoint; set HF_TOKEN in the environment",
    "hub_model_id": "set `export.hub_repo` and use `agentforge push`",
    "load_best_model_at_end": "the artefact is the last step's; set `max_steps` to the step that was best",
    "auto_find_batch_size": "a batch size found by crashing is not reproducible; see `agentforge plan`",
    "eval_packing": "the eval split is packed as the train split is",
    "dataset_text_field": "the data are tokenised by `agentforge prepare`",
    "chat_template_path": "the data are tokenised by `agentforge prepare`; set `data.template`",
    "completion_only_loss": "the data carry masks; set `assistant_only_loss`",
    "model_init_kwargs": "set `model.dtype`, `model.attn_implementation` ... in the recipe",
    "dataset_kwargs": "the data are made by `agentforge prepare`",
}


@dataclass(frozen=True)
class Arguments:
    """What the stage runs with.

    Attributes:
        parent: the `TrainingArguments` or `SFTConfig`.
        packing: the recipe's wish; None leaves it to the model.
        max_length: tokens of a packed row.
        assistant_only_loss: train on the tokens whose `assistant_masks` is 1, or on all.
    """

    parent: TrainingArguments
    packing: bool | None
    max_length: int
    assistant_only_loss: bool


def build_arguments(recipe: Recipe, config_class: type[TrainingArguments], output_dir: Path, *, evaluates: bool) -> Arguments:
    """Return the arguments of one run.

    Args:
        recipe: `train.args` is taken as it is; defaults are only filled in.
        config_class: `TrainingArguments` or `SFTConfig`.
        output_dir: where the checkpoints go.
        evaluates: there is an eval split.

    Raises:
        UserError: a key that would undo what this stage promises, or a value that the parent refuses.
    """
    given = dict(recipe.train.args)
    for key in sorted(REFUSED.keys() & given.keys()):
        raise UserError(f"train.args.{key}: {REFUSED[key]}")
    if given.get("save_total_limit") == 1:
        raise UserError("train.args.save_total_limit: 1 would delete the last good checkpoint before the next is complete; give 2")
    max_length = given.pop("max_length", None) or recipe.data.max_length
    if max_length < recipe.data.max_length:
        raise UserError(
            f"train.args.max_length is {max_length}, data.max_length {recipe.data.max_length}: rows would be cut in training "
            "without being counted; lower data.max_length instead"
        )
    ours = {key: given.pop(key) for key in OURS & given.keys()}
    if ours.get("packing_strategy", "bfd") != "bfd":
        raise UserError("train.args.packing_strategy: only 'bfd' keeps every conversation whole; leave it out")
    given.pop("gradient_checkpointing", None)  # `_defaults` has it under its new name
    merged = {**_defaults(recipe, evaluates), **given, "output_dir": str(output_dir)}
    if "max_length" in config_class.__dataclass_fields__:
        merged["max_length"] = max_length
    try:
        parent = config_class(**merged)
    except (ValueError, TypeError) as error:
        raise UserError(f"train.args: {str(error).strip().splitlines()[0]}") from error
    # TRL has packing of its own, which pads nothing but joins a batch into one row (see `examples`)
    packing = ours.get("packing", ours.get("padding_free"))
    return Arguments(parent, packing, max_length, bool(ours.get("assistant_only_loss", recipe.train.method == "sft")))


def _defaults(recipe: Recipe, evaluates: bool) -> dict[str, Any]:
    gpu = torch.cuda.is_available()
    given = recipe.train.args
    return {
        # The same seed twice: the order of the data must not change when somebody draws another initialisation.
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        # bf16 halves the time and memory of matrix products where the hardware has them; a CPU without AMX emulates it.
        "bf16": gpu and torch.cuda.is_bf16_supported() and not given.get("fp16"),
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        **({} if gpu or "WORLD_SIZE" not in os.environ else {"ddp_backend": "gloo"}),
        # Recomputing activations costs a third more time: only where the plan says the run does not fit without.
        # Given under its new name, because TRL sets the old one to True where the new one is left open.
        "activation_checkpointing": given["gradient_checkpointing"]
        if "gradient_checkpointing" in given
        else gpu and _needs_checkpointing(recipe),
        # HF's default counts a NaN loss as the average of the others, or as 0.
        "logging_nan_inf_filter": False,
        # Not "all": nothing leaves the machine unless the recipe asks for it. `metrics.jsonl` is always written.
        "report_to": [],
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


def _needs_checkpointing(recipe: Recipe) -> bool:
    from agentforge.planning.memory import estimate_memory

    return not estimate_memory(recipe).fits(gradient_checkpointing=False)
