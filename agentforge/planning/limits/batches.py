"""Batches of GRPO and PPO, which TRL divides into groups when its trainer is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of


def batch_problems(recipe: Recipe, devices: int) -> Iterator[str]:
    """Yield what does not divide.

    Args:
        devices: processes that train, one for each device of the recipe's hardware.
    """
    if not METHODS[recipe.train.method].plays:
        return
    fields, given = fields_of(METHODS[recipe.train.method].config), recipe.train.args

    def value(name: str) -> Any:
        return given.get(name, fields[name].get("default"))

    rollout = given.get("rollout_batch_size")
    per_device = given.get("per_device_train_batch_size") or (min(8, rollout) if rollout else 8)
    step = per_device * devices
    played = rollout if recipe.train.method == "ppo" else given.get("generation_batch_size")
    name = "rollout_batch_size" if recipe.train.method == "ppo" else "generation_batch_size"
    if played is not None and played % step:
        yield (
            f"train.args.{name} is {played}; it must be a multiple of per_device_train_batch_size times the "
            f"devices, {per_device} x {devices}"
        )
    elif recipe.train.method == "grpo":
        accumulated = value("steps_per_generation") or value("gradient_accumulation_steps") or 1
        batch, group = played or step * accumulated, value("num_generations")
        if batch % group:
            yield (
                f"train.args.num_generations is {group}, and the {batch} episodes of a rollout "
                "(per_device_train_batch_size x devices x gradient_accumulation_steps) must be divisible by "
                "num_generations; change one of them"
            )
