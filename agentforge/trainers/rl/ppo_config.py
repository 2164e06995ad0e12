"""PPO's hyper-parameters under the names that papers and this project's recipes give them."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import GRPOConfig


@dataclass
class PPOConfig(GRPOConfig):
    """`GRPOConfig` with a critic. What the parent calls otherwise is set from our names, and not by its own."""

    ppo_epochs: int = field(default=4, metadata={"help": "Passes over the episodes of a rollout."})
    num_rollouts: int = field(
        default=100, metadata={"help": "Rollouts of the whole run, each of rollout_batch_size episodes."}
    )
    rollout_batch_size: int | None = field(
        default=None, metadata={"help": "Episodes of a rollout, over all processes; none: one optimiser step's batch."}
    )
    clip_range: float = field(default=0.2, metadata={"help": "How far the probability ratio may go from 1."})
    vf_coef: float = field(default=0.5, metadata={"help": "Weight of the critic's loss."})
    vf_clip_range: float | None = field(
        default=0.2, metadata={"help": "How far a value may go from where it was at the rollout; none: any way."}
    )
    gae_lambda: float = field(default=0.95, metadata={"help": "Decay of the advantage's trace, from turn to turn."})
    gamma: float = field(default=0.99, metadata={"help": "Discount, from turn to turn."})
    entropy_coef: float = field(default=0.01, metadata={"help": "Weight of the entropy bonus."})
    learning_rate: float = field(default=1e-5, metadata={"help": "The peak learning rate."})

    def __post_init__(self) -> None:
        self.num_iterations = self.ppo_epochs
        self.epsilon = self.clip_range
        self.generation_batch_size = self.rollout_batch_size
        # the parent wants groups of at least 2, to compare with; a critic compares with itself
        self.num_generations = 2 if self.rollout_batch_size is None else self.rollout_batch_size
        super().__post_init__()
        self.num_generations = 1
        if self.max_steps <= 0:
            # a rollout's batches, once an epoch, joined to optimiser steps
            self.max_steps = -(
                -self.num_rollouts * self.ppo_epochs * self._batches() // self.gradient_accumulation_steps
            )

    def _batches(self) -> int:
        assert self.steps_per_generation is not None
        return self.steps_per_generation
