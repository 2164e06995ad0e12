"""The eval loss as a mean over tokens, whatever the batches and however many processes."""

from __future__ import annotations

from typing import Any

import torch

from agentforge.trainers.batching import IGNORED
from agentforge.trainers.guarded_trainer import GuardedTrainer


class TokenMeanTrainer(GuardedTrainer):
    """A Trainer whose eval loss does not change with the batch size or with the number of processes.

    The parent takes the mean of its batches' means: a batch of few tokens weighs as much as one of many, and two
    processes, whose batches are others, find another loss for the same model.
    """

    _evaluated_tokens: torch.Tensor  # (2,) the loss summed over tokens, and the tokens

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Add up the batch's loss, weighed by its tokens; logits are never asked for."""
        inputs = self._without_repeated(self._prepare_inputs(inputs))
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        assert isinstance(loss, torch.Tensor)
        tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
        pair = torch.stack([loss.double() * tokens, tokens.double()])
        # Without a token there is no mean to multiply.
        self._evaluated_tokens = self._evaluated_tokens + torch.where(tokens > 0, pair, torch.zeros_like(pair))
        return loss, None, None

    def _without_repeated(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Ignore the labels of rows that are read twice so that each process has a last batch of equal size."""
        state = self.accelerator.gradient_state
        # -1: not known, so that nothing was repeated; 0: the rows came out even.
        if not state.end_of_dataloader or state.remainder <= 0 or self.accelerator.num_processes == 1:
            return inputs
        labels = inputs["labels"]
        rows = torch.arange(len(labels), device=labels.device) + self.accelerator.process_index * len(labels)
        return inputs | {"labels": labels.masked_fill((rows >= state.remainder).unsqueeze(1), IGNORED)}

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Return the parent's, with the loss a token."""
        self._evaluated_tokens = torch.zeros(2, dtype=torch.double, device=self.args.device)
        output = super().evaluation_loop(*args, **kwargs)
        loss, tokens = self.accelerator.reduce(self._evaluated_tokens, "sum").tolist()
        name = f"{kwargs.get('metric_key_prefix', 'eval')}_loss"
        if tokens and output.metrics and name in output.metrics:
            output = output._replace(metrics=output.metrics | {name: loss / tokens})
        return output
