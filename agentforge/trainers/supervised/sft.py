"""Supervised fine-tuning: TRL's SFTTrainer over rows that are already tokenised, labelled and packed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.utils.other import TrainableTokensWrapper
from torch import nn
from torch.nn import functional
from trl import SFTConfig, SFTTrainer

from agentforge.trainers.batching import IGNORED
from agentforge.trainers.supervised.token_mean import TokenMeanTrainer

# Above this size of the logits, TRL's head is used: it computes them in tiles, twice, and never holds them all.
MAX_LOGITS_BYTES = 2**30


class SupervisedTrainer(TokenMeanTrainer, SFTTrainer):
    """`trl.SFTTrainer` that computes logits only where a token is trained.

    Only the loss is overridden, and only where it is the mean cross-entropy; any other is the parent's to compute.
    """

    args: SFTConfig

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean cross-entropy of the trained tokens, over the whole accumulated batch.

        In a conversation most tokens are not trained, and the head is the widest matrix of a small model; TRL runs it
        over all positions (without Triton), twice, and adds entropy and accuracy to each step.
        """
        trained = inputs["labels"][:, 1:] != IGNORED  # (B, T-1)
        head = self.accelerator.unwrap_model(self.model).get_output_embeddings()
        if return_outputs or not self._is_plain(head):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        targets = inputs["labels"][:, 1:][trained]  # (K,)
        with only_at(head, trained):
            logits = model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False).logits  # (K, V)
        summed = functional.cross_entropy(logits.float(), targets, reduction="sum")
        count = targets.numel() if num_items_in_batch is None else num_items_in_batch
        loss: torch.Tensor = summed / torch.as_tensor(count, device=summed.device).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP takes the mean of the gradients
        return loss

    def _is_plain(self, head: nn.Module) -> bool:
        # decided by the arguments, not by the batch: TRL's way gathers over the processes, so all must go the same.
        # All that asks for another loss than the mean cross-entropy is the parent's to compute; so is a row that is
        # divided among processes, whose labels are not all here.
        asked = (self.label_smoother, self.compute_loss_func, getattr(self.accelerator, "parallelism_config", None))
        if self.args.loss_type != "nll" or self.aux_loss_enabled or any(thing is not None for thing in asked):
            return False
        rows = max(self.args.per_device_train_batch_size, self.args.per_device_eval_batch_size)
        positions = rows * (self.args.max_length or 0)
        if isinstance(head, TrainableTokensWrapper):  # a plain head in which rows of new tokens are trained
            head = head.original_module
        return isinstance(head, nn.Linear) and 4 * positions * head.out_features <= MAX_LOGITS_BYTES


@contextmanager
def only_at(head: nn.Module, trained: torch.Tensor) -> Iterator[None]:
    """Give the head only the hidden states before trained tokens: `(B, T, H)` becomes `(K, H)`.

    A hook and not a forward of our own: it holds under DDP, FSDP and PEFT, and for every architecture.
    """
    handle = head.register_forward_pre_hook(lambda module, args: (args[0][:, :-1][trained],))
    try:
        yield
    finally:
        handle.remove()
