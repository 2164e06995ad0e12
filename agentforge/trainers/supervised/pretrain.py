"""Next-token training of all weights: the Trainer of transformers."""

from __future__ import annotations

from typing import Any

from agentforge.trainers.supervised.token_mean import TokenMeanTrainer


class PretrainTrainer(TokenMeanTrainer):
    """`transformers.Trainer` over packed documents; the loss is the model's own."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the model's loss, with a router's auxiliary loss once an update.

        A mixture of experts that is asked for router logits adds the balance of its experts to the mean over tokens.
        The mean is over all tokens of the update, so the parent divides by nothing further; the balance, a mean of each
        micro-batch, would then be added as often as there are micro-batches (and processes).
        """
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        balance = getattr(outputs, "aux_loss", None)
        if balance is not None and num_items_in_batch is not None and model.training:
            processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            weight = self.accelerator.unwrap_model(model).router_aux_loss_coef
            loss = loss - weight * balance.to(loss.device) * (processes - 1 / self.current_gradient_accumulation_steps)
        return (loss, outputs) if return_outputs else loss
