"""Proximal policy optimisation over episodes: TRL's GRPOTrainer with a critic in the place of the group.

One update, from the episode to the loss:

1. The policy plays. Of each episode come its tokens as they were sampled, their log-probabilities, a mask of those that
   the model wrote, and a reward a turn (`trainers.rl.rollout`). TRL's scoring adds what it needs of the reference
   model.
2. The critic says what each state is worth: V(s) before each token of the model's, once, with the weights that played.
3. Generalised advantage estimation looks back from the last turn: delta = r + gamma V(s') - V(s) of a turn, and a trace
   of the later deltas that decays by gamma lambda a turn. The step is the turn, for that is what the environment
   answers. Advantage + V(s) is the return that the critic is to learn.
4. Advantages are whitened in each environment: an update then has the same size whatever rewards are counted in.
5. For `ppo_epochs` passes over these episodes, in micro-batches: the ratio of each token's probability to that when it
   was played, clipped to 1 +- `clip_range`, times its advantage; plus `beta` times the KL to the reference; minus
   `entropy_coef` times the entropy. That is TRL's loss as it stands. Here the critic's squared error is added, also
   clipped: after the first pass the values would otherwise run ahead of the advantages that were computed from the old
   ones.

Every term is a mean over all tokens of the update, so that it does not matter how the update is cut into micro-batches.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import gather_object

from agentforge.losses.advantages import gae, whiten
from agentforge.losses.value import explained_variance, value_loss
from agentforge.trainers.rl.grpo import GRPOTrainer
from agentforge.trainers.rl.ppo_config import PPOConfig
from agentforge.trainers.rl.value_head import NAME, ValueHead, backbone_of, last_hidden_states


class PPOTrainer(GRPOTrainer):
    """PPO (Schulman et al., arXiv 1707.06347): clipped ratios, entropy bonus and KL are the parent's.

    Two methods of the parent are overridden, both through it: after it has played, the advantages of tokens take the
    place of the groups'; after it has made the policy's loss, the critic's is added. The critic is a module of the
    policy, so that optimiser, DDP and gradient clipping see one model.
    """

    args: PPOConfig
    _tag_names = ["trl", "ppo"]  # noqa: RUF012  as the parent has it
    _name = "PPO"

    def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
        self.value_head = ValueHead(backbone_of(model).config.hidden_size)  # type: ignore[union-attr,arg-type]
        model.add_module(NAME, self.value_head)
        super().__init__(model, *args, **kwargs)
        self.extra_modules = {NAME: self.value_head}

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        # the parent has compared the episodes of a group; a group is one episode here, and its 0 is replaced
        mask = (output["completion_mask"] * output["tool_mask"]).float()
        values = self._values_now(output) * mask
        rewards, ends = place_rewards(inputs, mask)
        advantages = gae(rewards, values, mask, ends, self.args.gamma, self.args.gae_lambda)
        output["old_values"], output["returns"] = values, (advantages + values) * mask
        output["advantages"] = self._whitened(advantages, mask, rewards.sum(1), [row["environment"] for row in inputs])
        explained = explained_variance(values, output["returns"], mask)
        self._metrics["train"]["explained_variance"].append(self.accelerator.gather(explained).mean().item())
        return output

    def _whitened(
        self, advantages: torch.Tensor, mask: torch.Tensor, earned: torch.Tensor, environments: list[str]
    ) -> torch.Tensor:
        """Return the advantages whitened in each environment by itself.

        Until the critic knows how hard each environment is, all that is done in a hard one would look bad, and all in
        an easy one good.
        """
        whitened = torch.zeros_like(advantages)
        everyone = gather_object(list(zip(environments, earned.tolist(), strict=True)))
        for name in sorted({environment for environment, _ in everyone}):
            rows = torch.tensor([environment == name for environment in environments], device=mask.device)
            whitened += whiten(
                advantages,
                mask * rows[:, None],
                scale=len({reward for environment, reward in everyone if environment == name}) > 1,
                reduce=lambda sums: self.accelerator.reduce(sums, "sum"),
            )
        return whitened

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        with last_hidden_states(backbone_of(self.accelerator.unwrap_model(model))) as seen:
            loss: torch.Tensor = super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"] * inputs["tool_mask"]
        groups = self.length_groups(torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1), mask.shape[1])
        values = groups.join(
            [self.value_head(_before_each(hidden, group.kept)) for hidden, group in zip(seen, groups, strict=True)]
        )
        count = self.tokens_of_update(inputs)
        error = value_loss(values, inputs["old_values"], inputs["returns"], mask, self.args.vf_clip_range, count)
        # what is logged is the mean over micro-batches, each of which is a share of the update's mean
        logged = self.accelerator.gather(error.detach()).mean().item() * self.current_gradient_accumulation_steps
        self._metrics["train"]["value_loss"].append(logged)
        return loss + self.args.vf_coef * error

    @torch.no_grad()
    def _values_now(self, output: dict[str, Any]) -> torch.Tensor:
        """Return the values `(B, T)` of the states before each token of the completions."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1)
        backbone = backbone_of(self.accelerator.unwrap_model(self.model))
        groups = self.length_groups(mask, output["completion_ids"].shape[1])
        parts = []
        for group in groups:
            values = []
            for rows in group.rows.split(self.args.per_device_train_batch_size):
                seen = mask[rows, group.columns]
                with self.accelerator.autocast():
                    hidden = backbone(input_ids=ids[rows, group.columns], attention_mask=seen, use_cache=False)
                values.append(self.value_head(_before_each(hidden.last_hidden_state, group.kept)))
            parts.append(torch.cat(values))
        return groups.join(parts)


def _before_each(hidden_states: torch.Tensor, length: int) -> torch.Tensor:
    """Return the hidden states `(B, length, H)` from which each of the last ``length`` tokens was drawn."""
    return hidden_states[:, -length - 1 : -1]


def place_rewards(inputs: list[dict[str, Any]], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rewards and turn ends `(B, T)` of a batch: each reward stands at the last token of its turn.

    Args:
        inputs: rows with `turn_ends`, positions of the turns' last tokens, and `turn_rewards`, as many.
        like: `(B, T)`.
    """
    rewards, ends = torch.zeros_like(like), torch.zeros_like(like)
    for row, example in enumerate(inputs):
        for position, reward in zip(example["turn_ends"], example["turn_rewards"], strict=True):
            rewards[row, position] = reward
            ends[row, position] = 1
    return rewards, ends
