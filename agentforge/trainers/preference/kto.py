"""Kahneman-Tversky optimisation over whole episodes: TRL's KTOTrainer that leaves out what the environment wrote."""

from __future__ import annotations

from typing import Any

import trl
from datasets import concatenate_datasets
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from agentforge.trainers.preference.equal_rows import EqualRowsTrainer


class EpisodeCollator(DataCollatorForUnpairedPreference):
    """Rows with `completion_masks` as a batch: a token counts only where its mask is 1."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        for prefix in ("", "KL_"):
            if f"{prefix}completion_mask" not in batch:
                continue
            for row, example in enumerate(examples):
                start = len(example["prompt_ids"])
                mask = batch[f"{prefix}completion_mask"][row, start:]
                own = mask.new_tensor(example[f"{prefix}completion_masks"])
                mask[: len(own)] *= own[: len(mask)]
        return batch


class KTOTrainer(EqualRowsTrainer, trl.KTOTrainer):
    """`trl.KTOTrainer` (Ethayarajh et al., arXiv 2402.01306) over rows of `labelled_episodes`.

    Its reference point, the KL, is estimated from each micro-batch by itself, as TRL and the paper have it. So here
    `per_device_train_batch_size` is more than a way to cut an update: larger ones estimate it better.
    """

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Return the rows with the mismatched completions that the KL term is estimated from.

        Within each batch every prompt gets the completion of the row before it, the first that of the last. That is why
        rows are read in their order. A last batch of one row gets that of the row before it: with its own completion,
        the KL would be its own reward and its loss a constant.
        """
        if not self.calculate_KL:
            return dataset
        partners = dataset.select(kl_partners(len(dataset), args.per_device_train_batch_size))
        columns = {key: f"KL_{key}" for key in ("completion_ids", "completion_masks")}
        return concatenate_datasets([dataset, partners.select_columns(list(columns)).rename_columns(columns)], axis=1)


def kl_partners(rows: int, batch_size: int) -> list[int]:
    """Return, for each of ``rows`` rows that are read in batches, the row whose completion it gets for the KL."""
    partners = [row - 1 if row % batch_size else min(row + batch_size, rows) - 1 for row in range(rows)]
    if partners[-1] == rows - 1:  # alone in its batch
        partners[-1] -= 1
    return partners
