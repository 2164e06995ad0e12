"""How long PPO and GRPO play, with either engine: one token after another, while the hardware mostly waits."""

from __future__ import annotations

import math

from agentforge.planning.constants import EPISODE_SHARE, LAYER_SECONDS, SAMPLER_READS
from agentforge.planning.cost import Range, seconds_of
from agentforge.planning.parameters import count_parameters
from agentforge.planning.samplers import load_samplers
from agentforge.planning.sizes import Shape
from agentforge.recipe.hardware import Hardware
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of
from agentforge.systems.registry import system_of


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
    seconds = rollouts x waves x tokens x seconds a token of each row (`token_seconds`, `sampler_seconds`).
    """
    rollouts, episodes = count_rollouts(recipe, hardware.devices)
    rows = min(episodes, recipe.rollouts.batch_size)
    waves = math.ceil(episodes / recipe.rollouts.batch_size)
    longest = recipe.episode_length
    by_engine = {"transformers": token_seconds(shape, rows, hardware)}
    if (sampled := sampler_seconds(recipe, shape, rows, hardware)) is not None:
        by_engine["vllm"] = sampled
    engine = recipe.rollouts.engine
    # a card that is not in the table: no slower than transformers, as far as anybody knows
    seconds = by_engine.get(engine, by_engine["transformers"])
    tokens = EPISODE_SHARE.range * (rollouts * waves * longest / 3600)
    tail = f"up to {longest:,} tokens at {seconds.low * 1e3:.2g} to {seconds.high * 1e3:.2g} ms"
    advice = _advice(recipe, shape, {name: (tokens * one).mid for name, one in by_engine.items()}, hardware)
    return tokens * seconds, f"{rollouts} rollouts of {episodes} episodes, {tail}{advice}"


def _advice(recipe: Recipe, shape: Shape, hours: dict[str, float], hardware: Hardware) -> str:
    """Return which engine to take, as the end of a sentence: the other one's hours, or why there is no choice."""
    engine, vllm = recipe.rollouts.engine, hours.get("vllm")
    if (system := system_of({"model_type": shape.model_type})) is not None:
        return f"; by transformers, for vLLM does not know the models of {system.name}"
    if not hardware.gpus:
        return ""
    if vllm is None:
        return f"; how fast vLLM is on {hardware.gpu} is not in configs/hardware/samplers.yaml"
    if engine == "transformers":
        return f"; rollouts.engine: vllm would take about {vllm:.2g} h" if vllm < hours[engine] else ""
    server = "; the GPUs of the server are not counted" if recipe.rollouts.vllm.mode == "server" else ""
    if vllm > hours["transformers"]:
        server += f"; rollouts.engine: transformers would take about {hours['transformers']:.2g} h"
    return f" by vLLM (transformers: about {hours['transformers']:.2g} h){server}"


def sampler_seconds(recipe: Recipe, shape: Shape, rows: int, hardware: Hardware) -> Range | None:
    """Return the seconds in which vLLM writes one token of each row on one device; None where nobody knows.

    For each token all weights are read once, in 2 bytes each (of a mixture all experts: some row needs each).
    """
    bandwidth = load_samplers().bandwidth(hardware.gpu)
    if bandwidth is None or system_of({"model_type": shape.model_type}) is not None:
        return None
    counted = count_parameters(shape)
    reading = SAMPLER_READS.range * (2.0 * counted.total / bandwidth)
    return reading + seconds_of(2.0 * counted.multiplied * rows, hardware)


def token_seconds(shape: Shape, rows: int, hardware: Hardware) -> Range:
    """Return the seconds in which transformers writes one token of each row on one device."""
    arithmetic = seconds_of(2.0 * count_parameters(shape).multiplied * rows, hardware)
    return LAYER_SECONDS.range * shape.num_hidden_layers + arithmetic
