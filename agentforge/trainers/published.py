"""What a training publishes: the weights of one moment as anybody opens them, a Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from agentforge.artifacts import write_json
from agentforge.errors import CheckRefused
from agentforge.models.checkpoint import in_dtype
from agentforge.models.fingerprint import write_base
from agentforge.recipe.schema import Recipe
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.launch import main_rank, share


def save_published(trainer: GuardedTrainer, recipe: Recipe, directory: Path) -> None:
    """Save what the model's weights are now, in the recipe's dtype, with config and tokenizer; on every process.

    The weights that are trained stay as they are: fp32 masters and the optimiser go on with them.

    Raises:
        CheckRefused: a weight is NaN or infinite, or would be so in the recipe's dtype; on every process, and before
            anything is written.
    """
    if recipe.train.lora is not None:
        trainer.save_model(str(directory))
    else:
        _save_whole(trainer, directory, recipe.model.dtype)
    if recipe.train.lora is not None and main_rank():
        _sort_sets(directory / "adapter_config.json")
        if recipe.model.path is not None:
            write_base(directory, recipe.model.path, recipe.model.revision)
    if main_rank():
        (directory / "README.md").unlink(missing_ok=True)  # TRL's and PEFT's; `push` writes the model card


def _save_whole(trainer: GuardedTrainer, directory: Path, dtype: str) -> None:
    refusal: CheckRefused | None = None
    if (whole := _whole_state(trainer)) is not None:
        try:
            state = _in_dtype(whole, getattr(torch, dtype))
        except CheckRefused as refused:
            refusal = refused
        else:
            trainer._save(str(directory), state_dict=state)
            # the parent writes down what the masters are, and a reader would open twice the bytes that are on disk
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            write_json(directory / "config.json", config | {"dtype": dtype})
    # One process that refused alone would leave the others waiting for it.
    if (refusal := share(refusal)) is not None:
        raise refusal


def _whole_state(trainer: GuardedTrainer) -> Mapping[str, Tensor] | None:
    """Return all weights on the process that saves, None on the others, which give it their parts."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        divided = trainer.model if trainer.is_fsdp_enabled else trainer.deepspeed
        gathered: Mapping[str, Tensor] = trainer.accelerator.get_state_dict(divided)  # on all processes, for one
        if not trainer.args.should_save:
            return None
        return _tied(gathered, trainer.accelerator.unwrap_model(trainer.model))
    if not trainer.args.should_save:
        return None
    whole: Mapping[str, Tensor] = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    return whole


def _tied(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the weights with one tensor for those that the model ties: gathered, each name has a copy of its own."""
    first: dict[int, str] = {}
    tied = {name: first.setdefault(id(weight), name) for name, weight in model.named_parameters(remove_duplicate=False)}
    return {name: state.get(tied.get(name, name), weight) for name, weight in state.items()}


def _in_dtype(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the floating weights in another dtype; those that share their memory (tied embeddings) still do."""
    made: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}
    found = {}
    for name, weight in state.items():
        key = (weight.data_ptr(), weight.shape, weight.dtype)
        if key not in made:
            held = weight.detach()
            made[key] = in_dtype(name, held, dtype, "model.dtype") if weight.is_floating_point() else held
        found[name] = made[key]
    return found


def _sort_sets(config: Path) -> None:
    """Sort PEFT's sets of module names, whose order otherwise differs from process to process."""
    values = json.loads(config.read_text(encoding="utf-8"))
    for name, value in values.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[name] = sorted(value)
    write_json(config, values)
