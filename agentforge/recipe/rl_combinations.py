"""Values of a recipe of PPO or GRPO that would bias the training, or be accepted and do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentforge.errors import did_you_mean
from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of

CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
# Key to the field that decides whether TRL looks at it, and the values for which it does.
ONLY_WITH: dict[str, tuple[str, tuple[Any, ...]]] = {
    **dict.fromkeys(("sapo_temperature_neg", "sapo_temperature_pos"), ("loss_type", ("sapo",))),
    **dict.fromkeys(("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"), ("loss_type", ("vespo",))),
    **dict.fromkeys(("delta", "epsilon", "clip_range"), ("loss_type", CLIPPED)),
    "epsilon_high": ("loss_type", (*CLIPPED, "cispo")),
    "scale_rewards": ("multi_objective_aggregation", ("sum_then_normalize",)),
    **dict.fromkeys(("ref_model_mixup_alpha", "ref_model_sync_steps"), ("sync_ref_model", (True,))),
    **dict.fromkeys(
        ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
        ("use_adaptive_entropy", (True,)),
    ),
}


BUILT_IN_REWARDS = ("outcome", "spec_shaping", "potential")


def rl_problems(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield keys, each with a sentence without it.

    Args:
        recipe: of a method that plays, with `train.args` checked one by one.
    """
    yield from _sampling(recipe)
    yield from _rewards(recipe)
    for key, text in _ignored(recipe):
        yield f"train.{key}", text


def _sampling(recipe: Recipe) -> Iterator[tuple[str, str]]:
    rollouts, method = recipe.rollouts, recipe.train.method
    if rollouts.temperature == 0:
        yield (
            "rollouts.temperature",
            "is 0, at which all episodes of a task are the same, so there is nothing to learn from; give 1",
        )
    if rollouts.top_p < 1:
        yield (
            "rollouts.top_p",
            f"is {rollouts.top_p:g}, but {method} must train on the whole distribution that it draws from: tokens "
            "outside the nucleus would never be drawn, and the ratio of probabilities would be wrong; leave it out",
        )


def _rewards(recipe: Recipe) -> Iterator[tuple[str, str]]:
    names = [reward.function for reward in recipe.train.rewards]
    for index, name in enumerate(names):
        if ":" not in name and name not in BUILT_IN_REWARDS:
            yield (
                f"train.rewards.{index}.function",
                f"is '{name}', which is no reward function{did_you_mean(name, BUILT_IN_REWARDS)}; it is one of "
                f"{', '.join(BUILT_IN_REWARDS)}, or one of your own as package.module:function",
            )
    if "potential" in names and recipe.train.method == "grpo":
        yield (
            "train.rewards",
            "has potential-based shaping, which adds up to 0 over an episode, and GRPO only looks at the sum: it would "
            "have no effect; leave it out, or set train.method to ppo",
        )
    if not set(names) - {"potential"}:
        yield (
            "train.rewards",
            "does not say what the goal is; give 'outcome' too, to which shaping is added",
        )


def _ignored(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield keys below `train` that would be accepted and do nothing."""
    train, given = recipe.train, recipe.train.args
    fields = fields_of(METHODS[train.method].config)

    def value(name: str) -> Any:
        return given.get(name, fields[name].get("default"))

    if given.get("eval_strategy", "no") != "no":
        yield (
            "args.eval_strategy",
            "has no effect: RL has no eval split; `agentforge evaluate` plays the reserved tasks",
        )
    for key in sorted(given.keys() & ONLY_WITH.keys()):
        field, values = ONLY_WITH[key]
        if value(field) not in values:
            wanted = " or ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
            yield f"args.{key}", f"has no effect with {field} {value(field)}; it needs {wanted}, or leave it out"
    if not value("beta"):
        for key in ("use_bias_correction_kl", "sync_ref_model"):
            if given.get(key):
                yield f"args.{key}", "has no effect without a KL term; set train.args.beta above 0"
        if train.collapse and train.collapse.max_kl is not None:
            yield "collapse.max_kl", "has no effect: the KL is only computed with train.args.beta above 0"
    if given.get("generation_batch_size") is not None and given.get("steps_per_generation") is not None:
        yield "args.generation_batch_size", "and train.args.steps_per_generation are both set; leave one of them out"
