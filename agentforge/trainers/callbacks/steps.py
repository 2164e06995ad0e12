"""A run that goes on logs and saves when the recipe says so now, not when it said so at its start."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StepsCallback(TrainerCallback):
    """The parent takes `logging_steps`, `save_steps` and `eval_steps` from the checkpoint; they may have changed."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compute the steps from the arguments again, as the parent does where there is no checkpoint."""
        state.compute_steps(args, state.max_steps)
