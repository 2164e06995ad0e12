"""A mean over rows that stays one where the last micro-batch of an epoch is short."""

from __future__ import annotations

from typing import Any

import torch

from agentforge.trainers.guarded_trainer import GuardedTrainer


class EqualRowsTrainer(GuardedTrainer):
    """For parents whose loss is the mean over a micro-batch's rows (TRL's DPO and KTO).

    The Trainer divides each such mean by the number of micro-batches of the update. That is the mean over all rows as
    long as micro-batches are equally large; of the rest of an epoch, cut into 2 rows and 1, the one would weigh as much
    as the two together, and the update would hang on how the same rows are cut.
    """

    _rows: int = 0
    _micro_batches: int = 1

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the parent's micro-batches of the next update, having counted their rows."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._rows, self._micro_batches = sum(len(batch["input_ids"]) for batch in batches), len(batches)
        return batches, items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the parent's loss, weighted by how many of the update's rows it is the mean of."""
        rows = len(inputs["input_ids"])
        found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not model.training or not self._rows:
            return found
        weight = rows * self._micro_batches / self._rows
        return (found[0] * weight, found[1]) if return_outputs else found * weight
