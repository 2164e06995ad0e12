"""What a training publishes: the weights of one moment as anybody opens them, a Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from agentforge.artifacts import write_json
from agentforge.models.fingerprint import write_base
from agentforge.recipe.schema import Recipe
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.launch import main_rank


def save_published(trainer: GuardedTrainer, recipe: Recipe, directory: Path) -> None:
    """Save what the model's weights are now, in the recipe's dtype, with config and tokenizer; on every process.

    The weights that are trained stay as they are: fp32 masters and the optimiser go on with them.
    """
    dtype = getattr(torch, recipe.model.dtype)
    if recipe.train.lora is not None or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        trainer.save_model(str(directory))
    elif trainer.args.should_save:
        model = trainer.accelerator.unwrap_model(trainer.model)
        trainer._save(str(directory), state_dict=_in_dtype(model.state_dict(), dtype))
        # the parent writes down what the masters are, and a reader would open twice the bytes that are on disk
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        write_json(directory / "config.json", config | {"dtype": recipe.model.dtype})
    if recipe.train.lora is not None and main_rank():
        _sort_sets(directory / "adapter_config.json")
        if recipe.model.path is not None:
            write_base(directory, recipe.model.path, recipe.model.revision)
    if main_rank():
        (directory / "README.md").unlink(missing_ok=True)  # TRL's and PEFT's; `push` writes the model card


def _in_dtype(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the floating weights in another dtype; those that share their memory (tied embeddings) still do."""
    made: dict[tuple[int, torch.Size, torch.dtype], Tensor] = {}
    found = {}
    for name, weight in state.items():
        key = (weight.data_ptr(), weight.shape, weight.dtype)
        if key not in made:
            made[key] = weight.detach().to(dtype) if weight.is_floating_point() else weight.detach()
        found[name] = made[key]
    return found


def _sort_sets(config: Path) -> None:
    """Sort PEFT's sets of module names, whose order otherwise differs from process to process."""
    values = json.loads(config.read_text(encoding="utf-8"))
    for name, value in values.items():
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[name] = sorted(value)
    write_json(config, values)
