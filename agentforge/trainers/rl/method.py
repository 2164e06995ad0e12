"""PPO and GRPO as a stage: a base and environments in, an adapter or a model that has learnt from its own episodes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback, set_seed
from trl import GRPOConfig

from agentforge.data.chat_template import install_template
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import CheckRefused
from agentforge.models.build import build_model, config_of
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Policy, Sampling
from agentforge.rollouts.policies.transformers_policy import TransformersPolicy
from agentforge.rollouts.policies.vllm_policy import refuse_unknown_model
from agentforge.rollouts.scheduler import Task
from agentforge.trainers.arguments import build_arguments
from agentforge.trainers.callbacks.collapse import CollapseCallback
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import GuardedTrainer, RunCounters
from agentforge.trainers.method import Method
from agentforge.trainers.rl.arguments import rl_defaults
from agentforge.trainers.rl.curriculum import TaskStream
from agentforge.trainers.rl.grpo import GRPOTrainer
from agentforge.trainers.rl.one_step_off import OneStepOff
from agentforge.trainers.rl.ppo import PPOTrainer
from agentforge.trainers.rl.ppo_config import PPOConfig
from agentforge.trainers.rl.rewards import load_rewards
from agentforge.trainers.rl.rollout import RolloutFunction
from agentforge.trainers.rl.sampler import make_sampler

TRAINERS: dict[str, tuple[type[GRPOTrainer], type[GRPOConfig]]] = {
    "grpo": (GRPOTrainer, GRPOConfig),
    "ppo": (PPOTrainer, PPOConfig),
}
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` may change: the contract test would say so


class RLMethod(Method):
    """Episodes of the recipe's environments, train split only, with the policy that is being trained."""

    sections = frozenset({"seed", "model", "train", "environments", "rollouts"})
    args: GRPOConfig

    def relevant(self) -> dict[str, Any]:
        found = super().relevant()
        vllm = found["rollouts"].pop("vllm")  # where it runs, and how much memory it has, changes no weight
        if vllm["asynchronous"]:
            found["rollouts"]["asynchronous"] = True
        return found

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.trainer_class, config_class = TRAINERS[recipe.train.method]
        if recipe.rollouts.engine == "vllm":
            refuse_unknown_model(config_of(recipe.model).to_dict())
        arguments = build_arguments(recipe, config_class, recipe.trained, evaluates=False, defaults=rl_defaults(recipe))
        assert isinstance(arguments.parent, GRPOConfig)
        self.args = arguments.parent
        self.rewards = load_rewards(recipe.train.rewards, gamma=getattr(self.args, "gamma", None))
        self.pool = EnvironmentPool(recipe.environments)
        self.ahead: OneStepOff | None = None

    def make_trainer(
        self, directory: Path, counters: RunCounters, limits: LimitsCallback, callbacks: Sequence[TrainerCallback]
    ) -> GuardedTrainer:
        recipe, args = self.recipe, self.args
        assert recipe.model.path is not None
        tokenizer = load_tokenizer(recipe.model.path, recipe.model.revision)
        install_template(tokenizer, recipe.data.template, recipe.data.template_options, recipe.data.add_tokens)
        base = build_model(
            recipe.model,
            len(tokenizer),
            seed=recipe.seed,
            train_all=recipe.train.lora is None,
            device=args.device,
            new_tokens=self.new_tokens,
        )
        slots = _slots(args)
        environments = {name: self.pool.take(name) for name in recipe.environments}
        tasks = TaskStream(environments, seed=recipe.seed, slots=slots, curriculum=recipe.train.curriculum)
        for name, environment in environments.items():  # they say what tasks there are; then they are played in
            self.pool.give_back(name, environment)
        if recipe.rollouts.vllm.asynchronous:
            self.ahead = OneStepOff(self.play)
        rollouts = RolloutFunction(tasks, self.play, self.rewards, slots=slots, ahead=self.ahead)
        self.collapse = CollapseCallback(recipe.train.collapse, limits) if recipe.train.collapse else None
        model = self.adapted(base)
        set_seed(recipe.seed)  # of the critic
        trainer = self.trainer_class(
            model=model,
            args=args,
            reward_funcs=rollouts.reward_functions(),
            train_dataset=Dataset.from_dict({"prompt": [str(slot) for slot in range(slots)]}),
            processing_class=tokenizer,
            callbacks=[limits, *([self.collapse] if self.collapse else []), *callbacks],
            rollout_func=rollouts,
            make_sampler=make_sampler(recipe),
            keeps={"tasks": tasks} | ({"collapse": self.collapse} if self.collapse else {}),
            guards=self.guards(counters),
        )
        if self.ahead is not None and trainer.sampler is not None:
            trainer.sampler.before_sync = self.ahead.wait
        if isinstance(model, PeftModel) and args.beta != 0.0:
            # TRL's reference is a copy of the adapter, which is 0 now; without it TRL switches the adapter off, which
            # is the same, and checkpoints hold one adapter
            model.delete_adapter("ref")
        return trainer

    def check(self, trainer: GuardedTrainer) -> None:
        if self.collapse is None or self.collapse.reason is None:
            return
        raise CheckRefused(
            f"{self.collapse.reason}, {self.collapse.bounds.patience} times in a row: stopped after step "
            f"{trainer.state.global_step}; the newest checkpoint is from before; lower train.args.learning_rate, raise "
            "train.args.beta, or begin from a model that knows the actions"
        )

    def play(self, trainer: Any, tasks: Sequence[Task]) -> list[Episode | None]:
        """Play tasks with the policy as it is now; None for those whose environment broke."""
        rollouts, played = self.recipe.rollouts, dict[Task, Episode]()
        with trainer.accelerator.autocast():
            play(
                self._policy(trainer),
                self.pool,
                tasks,
                sampling=Sampling(rollouts.max_new_tokens, rollouts.temperature, rollouts.top_p, self.recipe.seed),
                batch_size=rollouts.batch_size,
                act=rollouts.act,
                on_episode=played.__setitem__,
            )
        if trainer.sampler is not None:
            trainer.sampler.rest()
        return [played.get(task) for task in tasks]

    def _policy(self, trainer: Any) -> Policy:
        if trainer.sampler is not None:
            policy: Policy = trainer.sampler.awake()
            return policy
        model = trainer.accelerator.unwrap_model(trainer.model)
        return TransformersPolicy(model, trainer.processing_class, "policy", self.recipe.episode_length)

    def close(self) -> None:
        if self.ahead is not None:
            self.ahead.close()
        self.pool.__exit__()


def _slots(args: GRPOConfig) -> int:
    """Return how many tasks the run plays: a slot for each group of each rollout."""
    assert args.steps_per_generation is not None and args.generation_batch_size is not None
    steps = args.max_steps * args.gradient_accumulation_steps
    rollouts = -(-steps // (args.num_iterations * args.steps_per_generation))
    return int(rollouts * args.generation_batch_size // (args.num_generations or 1))
