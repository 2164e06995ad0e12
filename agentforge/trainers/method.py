"""What the training stage asks of a method: what it reads, its arguments, its trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from agentforge.errors import UserError
from agentforge.models.build import add_lora, identify_base
from agentforge.recipe.schema import Recipe, Train
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import GuardedTrainer, Tally

# Where a stage keeps what only the running training reads; below the checkpoints' directory, deleted at the end.
CACHE = "rows"

OBJECTIVES = ("nested", "exits", "distill")


def asks_for(train: Train) -> list[str]:
    """Return which of the keys a recipe has."""
    return [key for key in (*OBJECTIVES, "expanded", "trainable") if getattr(train, key)]


def refuse_keys(train: Train) -> None:
    """Refuse keys of pretrain and sft under another method, which would not read them.

    Raises:
        UserError: there is one.
    """
    if train.method not in ("pretrain", "sft") and (keys := asks_for(train)):
        raise UserError(f"train.{keys[0]} belongs to the methods pretrain and sft; {train.method} does not read it")


class Stage(ABC):
    """One run of a method. Made before the stage's directory is opened: everything that can be refused is refused here.

    Attributes:
        recipe: as it was given.
        args: the parent library's config object; its `output_dir` is set when the directory is open.
    """

    recipe: Recipe
    args: TrainingArguments
    sections: frozenset[str] = frozenset({"seed", "model", "train"})

    def relevant(self) -> dict[str, Any]:
        """Return the part of the recipe that the result depends on."""
        found = self.recipe.model_dump(include=set(self.sections)) | {"max_length": self.recipe.data.max_length}
        found["model"].pop("history")  # a condition on the base, not a part of it
        return found

    def inputs(self) -> dict[str, Path | str]:
        """Return the artefacts and models that the result depends on."""
        return {"base": identify_base(self.recipe.model)}

    @abstractmethod
    def make_trainer(
        self, directory: Path, tally: Tally, limits: LimitsCallback, callbacks: Sequence[TrainerCallback]
    ) -> GuardedTrainer:
        """Return the trainer, with ``limits`` and ``callbacks`` among its callbacks."""

    def check(self, trainer: GuardedTrainer) -> None:  # noqa: B027  most have nothing to add
        """Refuse what came out although the loop ended in order.

        Raises:
            CheckRefused: the sentence says what happened and which checkpoint is from before.
        """

    def metrics(self, trainer: GuardedTrainer) -> dict[str, Any]:
        """Return what the manifest says of this method beside what it says of all."""
        return {}

    def finish(self, trainer: GuardedTrainer, directory: Path) -> dict[str, Any]:
        """Make what lies beside the saved model, on every process; returns more for the manifest."""
        return {}

    def close(self) -> None:  # noqa: B027  most hold nothing
        """Free what the stage holds."""

    def adapted(self, base: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Return the model that is trained: with LoRA if the recipe says so."""
        lora = self.recipe.train.lora
        return base if lora is None else add_lora(base, lora, seed=self.recipe.seed)
