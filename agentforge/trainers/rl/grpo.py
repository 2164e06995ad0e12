"""Group-relative policy optimisation over episodes: TRL's GRPOTrainer with checkpoints in the middle of a rollout.

Nothing of the loss is written again, so every field of the config keeps its effect. What is done otherwise than by TRL,
each through the parent's own method:

* Who plays: `rollout_func` is `trainers.rl.rollout.Rollouts`, and prompts are numbers of slots. TRL would generate one
  completion a prompt; an episode has many turns, with the environment's words between them.
* How tokens are scored (`_get_per_token_logps_and_entropies`): in groups of episodes of like length, for TRL pads all
  to the longest; and, for models that padding on the left changes, of prompts of equal length.
* The entropy bonus (`_compute_loss`): its mean is over the update, TRL's over each micro-batch.
* Another sampler than the trainer (`trainers.rl.sampler`): TRL's trainer is told that it has vLLM, so that weights are
  synced and importance is corrected where TRL does it, by its own code.
* Checkpoints: one rollout is trained on for several steps. What is left of it is saved, with the generator of tasks;
  TRL would play anew after a restart.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import trl
from safetensors.torch import load_file, save_file
from trl import GRPOConfig

from agentforge.artifacts import write_json
from agentforge.models.row_isolation import isolation_of, require
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.rl.length_groups import LengthGroups
from agentforge.trainers.rl.sampler import Sampler

ROLLOUT = "rollout-{rank}.safetensors"
STATE = "rollout-{rank}.json"
# What TRL's scoring takes beside the tokens, a part for each row: the parent's way is kept for them.
OF_ROWS = ("pixel_values", "token_type_ids", "mm_token_type_ids")


def sampler_kl(trained: torch.Tensor, sampled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Estimate KL(sampler || trainer) in nats per token from log-probabilities `(B, T)` of the sampled tokens.

    The estimator is r - 1 - log r of the ratio r = trainer / sampler: unbiased, and never negative for any token
    (Schulman, Approximating KL divergence, 2020: k3).
    """
    log_ratio = torch.where(mask.bool(), trained - sampled, 0.0)
    return (log_ratio.exp() - 1 - log_ratio).sum() / mask.sum().clamp(min=1)


class Keeps(Protocol):
    """What lives as long as a run and must be as it was when the run goes on."""

    def state(self) -> dict[str, Any]:
        """Return it as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""


class GRPOTrainer(GuardedTrainer, trl.GRPOTrainer):
    """`trl.GRPOTrainer` whose runs can be killed at any step and go on to the same weights.

    A rollout is trained on for several steps. A checkpoint between them holds what is left of it: the parent would play
    anew, with another policy, and the run would be another one. Short episodes are not padded to the longest one.

    Its `rollout_func` is `Rollouts`, or any function that TRL takes; TRL's `environment_factory` works too.

    Args:
        keeps: saved and restored with each checkpoint, by name.
        make_sampler: makes what plays in the place of the trainer's own model.
    """

    args: GRPOConfig
    _buffered_inputs: list[dict[str, torch.Tensor]] | None  # type: ignore[assignment]  # None at first

    def __init__(
        self,
        *args: Any,
        keeps: Mapping[str, Keeps] | None = None,
        make_sampler: Callable[[Any], Sampler] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.keeps = dict(keeps or {})
        self._entropies: torch.Tensor | None = None  # of the micro-batch that is being scored
        unwrapped = self.accelerator.unwrap_model(self.model)
        require(unwrapped, "right", "train.method: completions of unlike length cannot be scored together")
        self.pads_left = isolation_of(unwrapped).allows("left")
        if self.args.world_size > 1:
            require(unwrapped, "left", "train.method: start one process; several must score all prompts in one pass")
        self.sampler = None if make_sampler is None else make_sampler(self)
        if self.sampler is not None:
            # the three that TRL sets where it makes its own, which plays single turns and merges LoRA in place
            self.use_vllm, self._last_loaded_step = True, -1
            self.vllm_generation = self.sampler  # type: ignore[assignment]  # it has what TRL asks of its own

    def log_metric(self, name: str, value: float) -> None:
        """Add a value to the next line of metrics, which has the mean."""
        self._metrics["train"][name].append(value)

    @property
    def _steps_of_a_pass(self) -> int:
        assert self.args.steps_per_generation is not None  # the config's __post_init__ sets it
        return self.args.steps_per_generation

    def length_groups(self, mask: torch.Tensor, length: int) -> LengthGroups:
        """Return the groups of a batch `(B, L)`, the same for equal masks."""
        # DDP may broadcast buffers at each forward, so all processes must do as many
        return LengthGroups(mask, length, one=self.args.world_size > 1, equal_prompts=not self.pads_left)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.sampler is not None and "old_per_token_logps" in output:
            mask = output["completion_mask"] * output["tool_mask"]
            kl = sampler_kl(output["old_per_token_logps"], output["sampling_per_token_logps"], mask)
            self.log_metric("sampling/kl", self.accelerator.gather(kl).mean().item())
        return output

    def tokens_of_update(self, inputs: dict[str, Any]) -> torch.Tensor:
        """Return what a sum over a micro-batch's tokens is divided by to be its share of the mean over the update's.

        The mean of each micro-batch by itself would let a token among few weigh more than one among many: the same
        episodes would move the weights otherwise when they are cut into other micro-batches.
        """
        # TRL has counted the rollout's tokens over all processes; the gradients' mean over processes is DDP's
        tokens: torch.Tensor = inputs["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
        if not self.model.training:  # type: ignore[union-attr]  # there is one
            return tokens
        return tokens * self.current_gradient_accumulation_steps / self._steps_of_a_pass

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Return the parent's loss, with the entropy bonus as a mean over the update's tokens.

        The parent takes the mean of each micro-batch. Where only the most uncertain tokens count
        (`top_entropy_quantile`) it stays so, for which ones these are is decided in each micro-batch as well.
        """
        weight = self._entropy_weight()
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        entropies, self._entropies = self._entropies, None
        if weight == 0 or entropies is None or self.top_entropy_quantile < 1:
            return loss
        mask = inputs["completion_mask"]
        mask = mask * inputs["tool_mask"] if "tool_mask" in inputs else mask
        summed = (entropies * mask).sum()
        steps = self.current_gradient_accumulation_steps if self.model.training else 1  # type: ignore[union-attr]
        return loss + weight * (summed / mask.sum().clamp(min=1) / steps - summed / self.tokens_of_update(inputs))

    def _entropy_weight(self) -> float:
        # as the parent is about to apply it: the adaptive one is switched off while there is enough entropy
        if self.use_adaptive_entropy and self._last_world_entropy > self.args.entropy_target:
            return 0.0
        return float(self.entropy_coef)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        if any(kwargs.get(name) is not None for name in OF_ROWS) or kwargs.get("compute_aux_loss"):
            scored = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs
            )
            self._entropies = scored[1]
            return scored
        groups = self.length_groups(attention_mask, logits_to_keep)
        parts = [
            super(GRPOTrainer, self)._get_per_token_logps_and_entropies(
                model,
                input_ids[group.rows, group.columns],
                attention_mask[group.rows, group.columns],
                group.kept,
                batch_size,
                **kwargs,
            )
            for group in groups
        ]
        entropies = groups.join([part[1] for part in parts]) if kwargs.get("compute_entropy") else None
        self._entropies = entropies
        return groups.join([part[0] for part in parts]), entropies, None

    def _count(self, inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        # `inputs` are the prompts; the parent has taken this step's share of the rollout and moved on
        assert self._buffered_inputs is not None
        used = self._buffered_inputs[(self._step - 1) % self._steps_of_a_pass]
        written = used["completion_mask"].sum()
        trained = (used["completion_mask"] * used["tool_mask"]).sum() if "tool_mask" in used else written
        return used["prompt_mask"].sum() + written, trained

    def _save_state(self, checkpoint: Path) -> None:
        rank = self.args.process_index
        used_up = self._step % (self._steps_of_a_pass * self.num_iterations) == 0
        left = {
            f"{slot}/{name}": tensor.clone().contiguous()  # views of one another have no place in a safetensors file
            for slot, batch in enumerate([] if used_up else self._buffered_inputs or [])
            for name, tensor in batch.items()
        }
        save_file(left, str(checkpoint / ROLLOUT.format(rank=rank)))
        kept = {name: thing.state() for name, thing in self.keeps.items()}
        state = {"step": self._step, "metrics": self._metrics["train"], "keeps": kept}
        write_json(checkpoint / STATE.format(rank=rank), state)

    def restore(self, checkpoint: Path) -> None:
        super().restore(checkpoint)
        rank, device = self.args.process_index, str(self.accelerator.device)
        batches: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for key, tensor in load_file(checkpoint / ROLLOUT.format(rank=rank), device=device).items():
            slot, name = key.split("/", 1)
            batches[int(slot)][name] = tensor
        self._buffered_inputs = [batches[slot] for slot in sorted(batches)] or None
        state = json.loads((checkpoint / STATE.format(rank=rank)).read_text(encoding="utf-8"))
        self._step = state["step"]
        self._metrics["train"].update(state["metrics"])
        for name, thing in self.keeps.items():
            thing.restore(state["keeps"][name])
