"""Supervised fine-tuning: TRL's SFTTrainer over rows that are already tokenised, labelled and packed."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from trl import SFTTrainer

from agentforge.trainers.examples import IGNORED
from agentforge.trainers.loop import GuardedTrainer

# Above this size of the logits, TRL's head is used: it computes them in tiles, twice, and never holds them all.
MAX_LOGITS_BYTES = 2**30


class SupervisedTrainer(GuardedTrainer, SFTTrainer):
    """`trl.SFTTrainer` that computes logits only where a token is trained."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean cross-entropy of the trained tokens, over the whole accumulated batch.

        In a conversation most tokens are not trained, and the head is the widest matrix of a small model; TRL runs it
        over all positions (without Triton), twice, and adds entropy and accuracy to each step.
        """
        targets = inputs["labels"][:, 1:]  # (B, T-1): the token that follows
        kept = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)  # (K,): columns where any row is trained
        if return_outputs or not self._logits_fit(targets.shape[0] * kept.numel()):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits  # (B, K, V)
        summed = functional.cross_entropy(
            logits.flatten(0, 1).float(), targets[:, kept].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss: torch.Tensor = summed / torch.as_tensor(count, device=summed.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP takes the mean of the gradients
        return loss

    def _logits_fit(self, positions: int) -> bool:
        plain = self.args.loss_type == "nll" and self.label_smoother is None and not self.aux_loss_enabled
        base = self.accelerator.unwrap_model(self.model)
        size = 4 * positions * base.config.get_text_config().vocab_size
        return plain and size <= MAX_LOGITS_BYTES and base._supports_logits_to_keep()
