"""Pre-training and SFT: prepared rows, packed where the model allows it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments
from trl import SFTConfig

from agentforge.data.prepare import load_prepared
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError
from agentforge.models.build import build_model
from agentforge.recipe.schema import Recipe
from agentforge.systems.adamba.exits.exits import GATES
from agentforge.systems.adamba.training.calibrate_after_training import make_adaptive
from agentforge.systems.adamba.training.plan import NestedPlan
from agentforge.trainers.arguments import build_arguments
from agentforge.trainers.batching import choose_packing, make_collator, training_rows
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import GuardedTrainer, Tally
from agentforge.trainers.method import CACHE, Stage, asks_for
from agentforge.trainers.supervised.objective_trainer import (
    NestedPretrainTrainer,
    NestedSupervisedTrainer,
    NestedTrainer,
)
from agentforge.trainers.supervised.pretrain import PretrainTrainer
from agentforge.trainers.supervised.sft import SupervisedTrainer

log = logging.getLogger(__name__)

METHODS: dict[str, tuple[type[GuardedTrainer], type[TrainingArguments]]] = {
    "pretrain": (PretrainTrainer, TrainingArguments),
    "sft": (SupervisedTrainer, SFTConfig),
}
NESTED: dict[str, type[NestedTrainer]] = {"pretrain": NestedPretrainTrainer, "sft": NestedSupervisedTrainer}


class SupervisedStage(Stage):
    """Rows of `prepare` in, next-token loss on all or on the assistant's tokens."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.data = load_prepared(recipe.artifact("data"))
        self.trainer_class, config_class = METHODS[recipe.train.method]
        self.arguments = build_arguments(recipe, config_class, recipe.trained, evaluates=len(self.data["eval"]) > 0)
        self.args = self.arguments.parent
        self.plan = NestedPlan(recipe, self.arguments) if asks_for(recipe.train) else None

    def inputs(self) -> dict[str, Path | str]:
        return {
            "data": self.recipe.artifact("data"),
            **super().inputs(),
            **(self.plan.inputs() if self.plan else {}),
        }

    def metrics(self, trainer: GuardedTrainer) -> dict[str, Any]:
        return {"parts": trainer.last_parts} if isinstance(trainer, NestedTrainer) else {}

    def finish(self, trainer: GuardedTrainer, directory: Path) -> dict[str, Any]:
        return make_adaptive(trainer, self.recipe.train, directory)

    def make_trainer(
        self, directory: Path, tally: Tally, limits: LimitsCallback, callbacks: Sequence[TrainerCallback]
    ) -> GuardedTrainer:
        recipe, lora = self.recipe, self.recipe.train.lora
        tokenizer = load_tokenizer(recipe.artifact("data") / "tokenizer")
        base = build_model(
            recipe.model, len(tokenizer), seed=recipe.seed, train_all=lora is None, device=self.args.device
        )
        self._say_what_is_lost()
        packing = choose_packing(base, self.arguments.packing)
        rows = self._rows(directory / CACHE, packing)
        if isinstance(self.args, SFTConfig):
            self.args.dataset_kwargs = {"skip_prepare_dataset": True}  # they are ready: TRL would map over them again
        trainer_class, more = self.trainer_class, {}
        if self.plan is not None:
            trainer_class, more = NESTED[recipe.train.method], self.plan.prepare(base)
        return trainer_class(
            model=self.adapted(base),
            args=self.args,
            train_dataset=rows["train"],
            eval_dataset=rows.get("eval"),
            processing_class=tokenizer,
            data_collator=make_collator(base, tokenizer.pad_token_id, packing),
            callbacks=[limits, *callbacks],
            tally=tally,
            max_nonfinite_steps=recipe.train.max_nonfinite_steps,
            **more,
        )

    def _say_what_is_lost(self) -> None:
        path = self.recipe.model.path
        if self.recipe.train.exits is None and path is not None and (Path(path) / GATES).is_file():
            log.warning("%s has %s; without train.exits the result has none, for its layers move", path, GATES)

    def _rows(self, cache: Path, packing: bool) -> dict[str, Dataset]:
        """Return labelled and packed rows of the splits that have any; the first process writes, the rest map them."""
        if not len(self.data["train"]):
            raise UserError(f"{self.recipe.artifact('data')} has no training rows; look at the counts in its manifest")
        masked, max_length = self.arguments.assistant_only_loss, self.recipe.data.max_length
        with self.args.main_process_first(desc="packing"):
            return {
                split: training_rows(
                    dataset, max_length=max_length, packing=packing, masked=masked, cache=cache / split
                )
                for split, dataset in self.data.items()
                if len(dataset)
            }
