"""`train.args` of PPO and GRPO: what follows from the rest of the recipe."""

from __future__ import annotations

from typing import Any

from agentforge.recipe.schema import Recipe


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
        # TRL masks a sequence by the product of its ratios; over the thousand tokens of an episode, rounding alone can
        # take that out of any range
        "vllm_importance_sampling_mode": "token_truncate",
        "logging_steps": 1,  # a step holds minutes of play
        # of the reference model, which TRL loads by its path
        **({"model_init_kwargs": {"revision": recipe.model.revision}} if recipe.model.revision else {}),
        "ddp_find_unused_parameters": False,  # every weight has a gradient; the critic's comes from outside forward
        **({"per_device_train_batch_size": min(8, rollout)} if rollout else {}),
    }
