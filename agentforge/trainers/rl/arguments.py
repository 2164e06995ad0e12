"""`train.args` of PPO and GRPO: what follows from the rest of the recipe, and what would have no effect."""

from __future__ import annotations

from typing import Any

from trl import GRPOConfig

from agentforge.errors import UserError
from agentforge.recipe.schema import Recipe

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


def rl_defaults(recipe: Recipe) -> dict[str, Any]:
    """Return fields of `GRPOConfig` that other sections decide, or that are otherwise than TRL has them, with why."""
    given = recipe.train.args
    rollout = given.get("rollout_batch_size")
    return {
        # what tokens were drawn with is what their probabilities are computed with
        "temperature": recipe.rollouts.temperature,
        "max_completion_length": recipe.episode_length,
        "reward_weights": [reward.weight for reward in recipe.train.rewards],
        "shuffle_dataset": False,  # slots have no order of their own: `TaskStream` shuffles the tasks
        # a dropped unit makes the same token less or more likely from one pass to the next: noise in every ratio
        "disable_dropout": True,
        "logging_steps": 1,  # a step holds minutes of play
        # of the reference model, which TRL loads by its path
        **({"model_init_kwargs": {"revision": recipe.model.revision}} if recipe.model.revision else {}),
        "ddp_find_unused_parameters": False,  # every weight has a gradient; the critic's comes from outside forward
        **({"per_device_train_batch_size": min(8, rollout)} if rollout else {}),
    }


def refuse_ignored(recipe: Recipe, config: type[GRPOConfig]) -> None:
    """Refuse what would be accepted and do nothing.

    Raises:
        UserError: the sentence names the key and what it needs.
    """
    given = recipe.train.args
    for key in given.keys() & ONLY_WITH.keys():
        field, values = ONLY_WITH[key]
        value = given.get(field, config.__dataclass_fields__[field].default)
        if value not in values:
            wanted = " or ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
            raise UserError(f"train.args.{key} has no effect with {field} {value}; it needs {wanted}, or leave it out")
    beta = given.get("beta", config.__dataclass_fields__["beta"].default)
    if not beta:
        for key in ("use_bias_correction_kl", "sync_ref_model"):
            if given.get(key):
                raise UserError(f"train.args.{key} has no effect without a KL term; set train.args.beta above 0")
        if recipe.train.collapse and recipe.train.collapse.max_kl is not None:
            raise UserError("train.collapse.max_kl: the KL is only computed with train.args.beta above 0")
    if recipe.train.method == "grpo" and given.get("max_steps", -1) <= 0:
        raise UserError("train.args.max_steps: tasks do not run out, so the run needs a number of steps")
