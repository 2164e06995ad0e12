"""Pre-training and SFT: prepared rows, packed where the model allows it."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments
from trl import SFTConfig

from agentforge.artifacts import read_manifest
from agentforge.data.mixing.curriculum import stages_without
from agentforge.data.prepare import load_prepared
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError
from agentforge.models.build import build_model, config_of
from agentforge.recipe.schema import Recipe
from agentforge.systems.registry import answer, concerned, used_keys
from agentforge.trainers.arguments import build_arguments
from agentforge.trainers.batching import choose_packing, make_collator, training_rows
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import GuardedTrainer, RunCounters
from agentforge.trainers.method import CACHE, Method
from agentforge.trainers.supervised.additions import TrainingPlan
from agentforge.trainers.supervised.epoch_stages import EpochStages
from agentforge.trainers.supervised.objective_trainer import (
    ObjectivePretrainTrainer,
    ObjectiveSupervisedTrainer,
    ObjectiveTrainer,
)
from agentforge.trainers.supervised.pretrain import PretrainTrainer
from agentforge.trainers.supervised.sft import SupervisedTrainer
from agentforge.trainers.supervised.source_schedule import (
    EpochOfSampler,
    ScheduledSampler,
    SourceSchedule,
    rows_by_source,
)
from agentforge.trainers.supervised.trainable import freeze_all_but

log = logging.getLogger(__name__)

TRAINERS: dict[str, tuple[type[GuardedTrainer], type[ObjectiveTrainer], type[TrainingArguments]]] = {
    "pretrain": (PretrainTrainer, ObjectivePretrainTrainer, TrainingArguments),
    "sft": (SupervisedTrainer, ObjectiveSupervisedTrainer, SFTConfig),
}


class SupervisedMethod(Method):
    """Rows of `prepare` in, next-token loss on all or on the assistant's tokens."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.data = load_prepared(recipe.artifact("data"))
        self.trainer_class, self.objective_trainer_class, config_class = TRAINERS[recipe.train.method]
        self.arguments = build_arguments(recipe, config_class, recipe.trained, evaluates=len(self.data["eval"]) > 0)
        self.args = self.arguments.parent
        systems = concerned(config_of(recipe.model).to_dict(), {"train": recipe.train, "data": recipe.data})
        self.plan: TrainingPlan | None = answer("training", systems, recipe, self.arguments)
        self.schedule: SourceSchedule | None = answer("schedule", systems, recipe)
        if self.schedule is not None and recipe.data.curriculum:
            raise UserError("data.curriculum and a system's keys both decide which sources are drawn; leave out one")
        stages_without(recipe.data.curriculum, self._missing())
        if recipe.train.keep is not None and recipe.train.keep.best and not len(self.data["eval"]):
            raise UserError(
                "train.keep.best compares eval losses, but the prepared data have no eval rows; set data.eval_fraction"
            )

    def relevant(self) -> dict[str, Any]:
        """Return also the curriculum and the keys by which a system schedules the data."""
        used = {key: getattr(self.recipe.data, key) for key in used_keys("data", self.recipe.data)}
        if self.recipe.data.curriculum:
            used["curriculum"] = self.recipe.data.model_dump(include={"curriculum"})["curriculum"]
        return super().relevant() | ({"data": used} if used else {})

    def inputs(self) -> dict[str, Path | str]:
        return {
            "data": self.recipe.artifact("data"),
            **super().inputs(),
            **(self.plan.inputs() if self.plan else {}),
        }

    def metrics(self, trainer: GuardedTrainer) -> dict[str, Any]:
        return {"parts": trainer.last_parts} if isinstance(trainer, ObjectiveTrainer) else {}

    def finish(self, trainer: GuardedTrainer, directory: Path) -> dict[str, Any]:
        return self.plan.finish(trainer, directory) if self.plan is not None else {}

    def make_trainer(
        self, directory: Path, counters: RunCounters, limits: LimitsCallback, callbacks: Sequence[TrainerCallback]
    ) -> GuardedTrainer:
        recipe, lora = self.recipe, self.recipe.train.lora
        tokenizer = load_tokenizer(recipe.artifact("data") / "tokenizer")
        base = build_model(
            recipe.model,
            len(tokenizer),
            seed=recipe.seed,
            train_all=lora is None,
            device=self.args.device,
            new_tokens=self.new_tokens,
        )
        freeze_all_but(base, recipe.train.trainable)
        packing = choose_packing(base, self.arguments.packing)
        rows, sampler = self._rows(directory / CACHE, packing)
        if isinstance(self.args, SFTConfig):
            self.args.dataset_kwargs = {"skip_prepare_dataset": True}  # they are ready: TRL would map over them again
        trainer_class, more = self.trainer_class, {}
        # The plan sees the bare model: it may add modules, and LoRA comes last.
        if self.plan is not None:
            trainer_class, more = self.objective_trainer_class, {"additions": self.plan.prepare(base)}
        trainer = trainer_class(
            model=self.adapted(base),
            args=self.args,
            train_dataset=rows["train"],
            eval_dataset=rows.get("eval"),
            processing_class=tokenizer,
            data_collator=make_collator(base, tokenizer.pad_token_id, packing),
            callbacks=[limits, *callbacks, *([EpochOfSampler(sampler)] if sampler is not None else [])],
            guards=self.guards(counters),
            **more,
        )
        # The parent asks for a sampler when `train` begins.
        trainer.train_sampler = sampler
        return trainer

    def _rows(self, cache: Path, packing: bool) -> tuple[dict[str, Dataset], ScheduledSampler | None]:
        """Return labelled and packed rows of the splits that have any, and the sampler if there is a schedule.

        The first process writes them, the rest map them.
        """
        if not len(self.data["train"]):
            raise UserError(f"{self.recipe.artifact('data')} has no training rows; look at the counts in its manifest")

        def make(dataset: Dataset, name: str) -> Dataset:
            return training_rows(
                dataset,
                max_length=self.recipe.data.max_length,
                packing=packing,
                masked=self.arguments.assistant_only_loss,
                cache=cache / name,
            )

        with self.args.main_process_first(local=False, desc="packing"):  # all nodes see the directory
            by_split = {split: dataset for split, dataset in self.data.items() if len(dataset)}
            train = by_split.pop("train")
            rows = {split: make(dataset, split) for split, dataset in by_split.items()}
            if self.schedule is None and not self.recipe.data.curriculum:
                return {"train": make(train, "train"), **rows}, None
            # Each source is packed by itself: a row with two of them could not be drawn by either's share.
            rows["train"], sources = rows_by_source(train, make)
        epochs = epochs_of(self.args, len(sources))
        schedule = self.schedule or EpochStages(self.recipe.data, Counter(sources), self._missing(), epochs)
        return rows, ScheduledSampler(schedule, sources, epochs, self.recipe.seed)

    def _missing(self) -> list[str]:
        """Return the sources that the data were prepared without."""
        metrics = read_manifest(self.recipe.artifact("data"))["metrics"]
        return list(metrics.get("missing", ()))


def epochs_of(args: TrainingArguments, rows: int) -> float:
    """Return how many passes over its rows a training makes.

    Args:
        args: `max_steps`, or `num_train_epochs` without it; they go by the same count as the parent's loop.
        rows: that the loader has, over all processes.
    """
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    batches = math.ceil(rows / (args.per_device_train_batch_size * args.world_size))
    return args.max_steps / math.ceil(batches / args.gradient_accumulation_steps)
