"""How long PPO and GRPO play: one token after another, while the hardware mostly waits for the next one."""

from __future__ import annotations

import math

from agentforge.planning.cost import Range
from agentforge.planning.parameters import count_parameters
from agentforge.planning.sizes import Shape
from agentforge.recipe.hardware import Hardware
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of

LAUNCH = (0.4e-3, 0.7e-3, 1.2e-3)
"""Seconds that a decoder layer of transformers takes for one token of each row, apart from the arithmetic: assumed."""
SHARE = (0.25, 0.5, 1.0)
"""How many of the tokens that an episode may have the longest one of a rollout has: assumed."""


def count_rollouts(recipe: Recipe, devices: int) -> tuple[int, int]:
    """Return how many rollouts the run plays and how many episodes of each one device plays."""
    ppo = recipe.train.method == "ppo"
    fields = {
        name: value["default"]
        for name, value in fields_of("PPOConfig" if ppo else "GRPOConfig").items()
        if "default" in value
    }
    args = fields | {key: value for key, value in recipe.train.args.items() if value is not None}
    accumulated = args["gradient_accumulation_steps"]
    batch = args["per_device_train_batch_size"] * devices
    generated = args.get("rollout_batch_size") if ppo else args.get("generation_batch_size")
    episodes = generated or batch * (args.get("steps_per_generation") or accumulated)
    passes = args["ppo_epochs"] if ppo else args["num_iterations"]
    if args["max_steps"] > 0:
        rollouts = math.ceil(args["max_steps"] * accumulated * batch / (passes * episodes))
    else:
        rollouts = args.get("num_rollouts", 0)
    return rollouts, math.ceil(episodes / devices)


def playing_hours(recipe: Recipe, shape: Shape, hardware: Hardware) -> tuple[Range, str]:
    """Return the hours in which a run of PPO or GRPO plays, and what that rests on.

    A device plays `rollouts.batch_size` episodes at once, each as many tokens one after another as an episode may have:
    seconds = rollouts x waves x tokens x (layers x launch + 2 x parameters x rows / (peak x share)).
    """
    rollouts, episodes = count_rollouts(recipe, hardware.devices)
    rows = min(episodes, recipe.rollouts.batch_size)
    waves = math.ceil(episodes / recipe.rollouts.batch_size)
    longest = recipe.episode_length
    flops = 2.0 * count_parameters(shape).multiplied * rows / hardware.peak_flops
    shares = (hardware.mfu.high, hardware.mfu.mid, hardware.mfu.low)
    seconds = [shape.num_hidden_layers * launch + flops / mfu for launch, mfu in zip(LAUNCH, shares, strict=True)]
    tokens = [rollouts * waves * longest * share for share in SHARE]
    hours = Range(*(count * second / 3600 for count, second in zip(tokens, seconds, strict=True)))
    tail = f"up to {longest:,} tokens at {seconds[0] * 1e3:.2g} to {seconds[2] * 1e3:.2g} ms"
    return hours, f"{rollouts} rollouts of {episodes} episodes, {tail}"
