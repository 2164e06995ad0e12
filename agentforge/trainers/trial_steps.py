"""A few steps of a recipe's own training on random rows, for their time and their memory; nothing is kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, PrinterCallback

from agentforge.artifacts import stage_directory
from agentforge.data.store import TokenisedRow, write_rows
from agentforge.errors import UserError
from agentforge.planning.shapes import config_of, shape_from_config
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Budget, Recipe
from agentforge.references import resolve
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import RunCounters
from agentforge.trainers.method import Method
from agentforge.trainers.step_meter import PeakMemory, StepMeter, give_blocks_back

WORDS = 64


def take_steps(recipe: Recipe, steps: int, *, for_memory: int) -> StepMeter:
    """Train on full rows of random tokens, all of them trained, and return what was measured.

    Args:
        recipe: its base is read if it is here, and made with random weights of its shape if it is not.
        steps: optimiser steps.
        for_memory: the first of them, which measure the peak and not the time.

    Raises:
        UserError: the method does not read rows, or a 4-bit base is not here.
    """
    if not METHODS[recipe.train.method].supervised:
        raise UserError(f"train.method {recipe.train.method} plays or compares episodes: no trial steps can be taken")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as directory:
        trial = _trial(recipe, steps, Path(directory))
        method: Method = resolve(METHODS[trial.train.method].implementation)(trial)
        try:
            give_blocks_back(at_once=True)
            memory = PeakMemory(device) if PeakMemory.measurable(device) else None
            meter = StepMeter(memory, for_memory)
            limits = LimitsCallback(Budget(), 0.0, 0.0)
            trainer = method.make_trainer(Path(directory) / "run", RunCounters(), limits, [meter])
            trainer.remove_callback(PrinterCallback)
            trainer.train()
        finally:
            give_blocks_back(at_once=False)
            method.close()
    return meter


def _trial(recipe: Recipe, steps: int, directory: Path) -> Recipe:
    """Return the recipe with rows of its own in ``directory``, and without all that is not the step itself."""
    config = config_of(recipe)
    model = recipe.model
    if model.path is None or not Path(model.path).is_dir():
        if model.quantize is not None:
            raise UserError(
                f"model.path {model.path} is not here, and 4-bit weights are made from it; download it first"
            )
        model = model.model_copy(update={"path": None, "config": config})
    args = {key: value for key, value in recipe.train.args.items() if not key.startswith(("save_", "eval_"))}
    args |= {"max_steps": steps, "save_strategy": "no", "eval_strategy": "no", "report_to": []}
    data = directory / "data"
    rows = steps * args.get("per_device_train_batch_size", 8) * args.get("gradient_accumulation_steps", 1)
    _write_data(data, rows, recipe.data.max_length, shape_from_config(config).vocab_size, recipe.seed)
    return recipe.model_copy(
        update={
            "output_dir": str(directory / "run"),
            "model": model.model_copy(update={"tokenizer": None}),
            "data": recipe.data.model_copy(update={"prepared": str(data), "curriculum": []}),
            "train": recipe.train.model_copy(update={"args": args, "keep": None}),
        }
    )


def _write_data(directory: Path, rows: int, length: int, vocabulary: int, seed: int) -> None:
    """Write what `prepare` would: rows of random tokens, and a tokenizer of a few words."""
    words = Tokenizer(models.WordLevel({str(number): number for number in range(WORDS)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1", unk_token="0")
    draw = np.random.default_rng(seed)

    def made() -> list[TokenisedRow]:
        every = np.ones(length, dtype=np.int8)
        return [(draw.integers(2, vocabulary, length, dtype=np.int32), every, "random", row) for row in range(rows)]

    with stage_directory(directory, stage="prepare", recipe={"rows": rows}) as work:
        tokenizer.save_pretrained(work.path / "tokenizer")
        write_rows(work.path, "train", iter([made()]))
        write_rows(work.path, "eval", iter(()))
