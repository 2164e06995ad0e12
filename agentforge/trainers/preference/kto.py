"""Kahneman-Tversky optimisation over whole episodes: TRL's KTOTrainer that leaves out what the environment wrote."""

from __future__ import annotations

from typing import Any

import trl
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

        Within each batch every prompt gets its neighbour's completion, which is why rows are read in their order.
        """
        if not self.calculate_KL:
            return dataset
        return dataset.map(_neighbours, batched=True, batch_size=args.per_device_train_batch_size)


def _neighbours(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {f"KL_{key}": rows[key][-1:] + rows[key][:-1] for key in ("completion_ids", "completion_masks")}
