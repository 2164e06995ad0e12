"""Direct preference optimisation over pairs of turns: TRL's DPOTrainer on rows that are tokens already."""

from __future__ import annotations

from typing import Any

import trl

from agentforge.trainers.preference.equal_rows import EqualRowsTrainer


class DPOTrainer(EqualRowsTrainer, trl.DPOTrainer):
    """`trl.DPOTrainer` (Rafailov et al., arXiv 2305.18290) over rows of `turn_pairs`."""

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        """Return the rows as they are: tokenising their text again could give other tokens than those sampled."""
        return dataset
