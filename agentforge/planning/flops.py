"""How much there is to do: steps, rows and tokens of a training stage, and the floating-point operations they take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.errors import UserError
from agentforge.planning.parameters import count_lora, count_parameters, multiplied_matching
from agentforge.planning.shapes import PACKABLE, shape_of
from agentforge.planning.sizes import Shape
from agentforge.planning.step_work import step_work
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of

DEFAULT_EPOCHS = float(fields_of("TrainingArguments")["num_train_epochs"]["default"])
PACKED_FILL = 0.99  # best-fit packing of conversations (benchmarks/packing.py), until `prepare` has measured it


@dataclass(frozen=True)
class TrainingTokens:
    """What a training stage reads.

    Attributes:
        steps: optimiser steps.
        rows: rows of `Recipe.row_length` slots, over all steps and devices.
        slots: rows x `Recipe.row_length`; what the hardware computes on.
        real: slots that hold a token rather than padding; equal to ``slots`` if nothing is known of the data.
        epochs: passes over the train split, None if it is not known how large that is.
        measured: `prepare` has counted the data; else they follow from the recipe alone.
    """

    steps: int
    rows: int
    slots: int
    real: int
    epochs: float | None
    measured: bool


def count_tokens(recipe: Recipe) -> TrainingTokens | None:
    """Return what the training stage reads, or None where only `prepare` can tell.

    These are epochs of data whose tokens nobody has counted, and conversations that are not packed: as if each filled
    its row, short ones would count for six times what they are.
    """
    args, length = recipe.train.args, recipe.row_length
    spec = METHODS[recipe.train.method]
    batch = rows_per_step(recipe)
    train = _prepared(recipe) if spec.supervised else None
    packs = _packs(recipe)
    if spec.reads == "conversations" and train is None and not packs:
        return None
    fill = _fill(train, packs, length)
    epoch_rows = _rows_in_epoch(recipe, train, packs)
    if (steps := args.get("max_steps", -1)) <= 0:
        if recipe.train.method == "ppo":
            return _count_rollouts(recipe, batch)
        if epoch_rows is None:
            return None
        steps = math.ceil(epoch_rows / batch) * args.get("num_train_epochs", DEFAULT_EPOCHS)
    rows = int(steps * batch)
    return TrainingTokens(
        steps=int(steps),
        rows=rows,
        slots=rows * length,
        real=round(rows * length * fill),
        epochs=rows / epoch_rows if epoch_rows else None,
        measured=train is not None,
    )


def _count_rollouts(recipe: Recipe, batch: int) -> TrainingTokens:
    """Return what PPO's updates read at most: every episode as long as it may be, once an epoch."""
    fields = {name: value["default"] for name, value in fields_of("PPOConfig").items() if "default" in value}
    args = fields | recipe.train.args
    rows = args["num_rollouts"] * args["ppo_epochs"] * (args.get("rollout_batch_size") or batch)
    slots = rows * recipe.episode_length
    return TrainingTokens(
        steps=math.ceil(rows / batch), rows=rows, slots=slots, real=slots, epochs=None, measured=False
    )


def rows_per_step(recipe: Recipe) -> int:
    """Return the rows of one optimiser step over all devices."""
    args = recipe.train.args
    per_device = args.get(
        "per_device_train_batch_size", fields_of("TrainingArguments")["per_device_train_batch_size"]["default"]
    )
    return int(per_device * args.get("gradient_accumulation_steps", 1) * training_processes(recipe))


def training_processes(recipe: Recipe) -> int:
    """Return how many processes train: one on each device, or as many as the recipe says."""
    hardware = load_hardware(recipe.hardware)
    return hardware.devices if recipe.train.processes is None else recipe.train.processes * hardware.nodes


def _prepared(recipe: Recipe) -> dict[str, Any] | None:
    directory = recipe.artifact("data")
    if not (directory / MANIFEST).is_file():
        return None
    train: dict[str, Any] | None = read_manifest(directory)["metrics"].get("train")
    return train


def _packs(recipe: Recipe) -> bool:
    wanted = recipe.train.args.get("packing")
    if wanted is not None or not METHODS[recipe.train.method].supervised:
        return bool(wanted)
    try:
        shape = shape_of(recipe)
    except UserError:  # a base that cannot be sized is the business of whoever sizes it; its rows can be counted
        return True
    if shape.config is None:
        return shape.model_type in PACKABLE
    from agentforge.planning.meta import packs_by_default

    return packs_by_default(shape.config)


def _fill(train: dict[str, Any] | None, packs: bool, length: int) -> float:
    if train is None:
        return 1.0
    if packs:
        return float(train["packed_fill"])
    return float(train["tokens"] / max(train["rows"] * length, 1))


def _rows_in_epoch(recipe: Recipe, train: dict[str, Any] | None, packs: bool) -> float | None:
    if train is not None:
        return float(train["packed_rows"] if packs else train["rows"])
    data = recipe.data
    if data.size is None or data.weights != "tokens" or not METHODS[recipe.train.method].supervised:
        return None
    return data.size * (1 - data.eval_fraction) / (data.max_length * PACKED_FILL)


def flops_per_token(recipe: Recipe, shape: Shape, *, recompute: bool, length: int | None = None) -> float:
    """Return the floating-point operations of one token in training.

    A multiplied parameter costs 2 forward and 4 backward: 2 for the gradient of the activation and 2 for its own, which
    a frozen one does without. An expert counts by the share of tokens that the router gives it.

    Attention costs 4 q s in each layer that has it, and twice that backward; s is the row, or the sliding window if
    that is shorter. It is not halved for causality (the convention of llm-foundry and PaLM, arXiv 2204.02311).

    Recomputing the layers costs another forward pass of theirs. What a system adds to a step (`StepWork`) costs as much
    as it would by itself.

    Args:
        recipe: decides what is trained.
        shape: of the base.
        recompute: gradient checkpointing is on.
        length: tokens in a row; `Recipe.row_length` if not given.
    """
    length = length or recipe.row_length
    flops = _passes(shape, length, _trained_when_multiplied(recipe, shape), recompute)
    work = step_work(recipe, shape)
    flops += sum(_passes(inside, length, None, recompute) * share for inside, share in work.passes) + work.head_flops
    flops += work.flops + (work.recomputed if recompute else 0.0)
    if work.teacher is not None:
        flops += 2.0 * count_parameters(work.teacher).multiplied + _attention(work.teacher, length)
    return flops


def _passes(shape: Shape, length: int, trained: float | None, recompute: bool) -> float:
    """Return what a token costs in one model, of whose multiplied parameters so many are trained (None: all)."""
    counts = count_parameters(shape)
    attention = _attention(shape, length)
    flops = 4.0 * counts.multiplied + 2.0 * (counts.multiplied if trained is None else trained) + 3 * attention
    return flops + (2.0 * counts.multiplied_in_layers + attention if recompute else 0.0)


def _attention(shape: Shape, length: int) -> float:
    return 4.0 * shape.query_size * shape.attended(length)


def _trained_when_multiplied(recipe: Recipe, shape: Shape) -> float | None:
    """Return the trained parameters that cost a gradient; LoRA's cost their own forward and backward as well."""
    if recipe.train.lora is not None:
        return 3.0 * count_lora(shape, recipe.train.lora)
    return multiplied_matching(shape, recipe.train.trainable) if recipe.train.trainable else None
