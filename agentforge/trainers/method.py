"""A training method as the stage `train` sees it: what it reads, its arguments, its trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from agentforge.data.added_tokens import pieces_of_new_tokens
from agentforge.models.build import add_lora, identify_base
from agentforge.models.new_tokens import refuse_frozen_rows, with_trained_rows
from agentforge.recipe.optimizers import OPTIMIZERS
from agentforge.recipe.schema import Recipe
from agentforge.references import resolve
from agentforge.systems.registry import named, without_unused_keys
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.effect import with_effect
from agentforge.trainers.guarded_trainer import GuardedTrainer, Guards, RunCounters

# Where a method keeps what only the running training reads; below the checkpoints' directory, deleted at the end.
CACHE = "rows"


class Method(ABC):
    """One run of a method. Made before its directory is opened: everything that can be refused is refused here.

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
        # The history is a condition on the base. The base itself is an input, which is known by what is in it: it may
        # be moved.
        for key in ("history", "path", "revision"):
            found["model"].pop(key)
        if self.recipe.data.add_tokens:
            found["add_tokens"] = self.recipe.data.add_tokens
        found["train"] = without_unused_keys("train", self.recipe.train)
        # The first two end a run, and leave those that do not end as they are; the others change it by rounding.
        for key in ("max_nonfinite_steps", "watchdog_minutes", "launch", "processes"):
            del found["train"][key]
        found["train"]["args"] = with_effect(self.recipe.train)
        return found

    def inputs(self) -> dict[str, Path | str]:
        """Return the artefacts and models that the result depends on."""
        return {"base": identify_base(self.recipe.model)}

    @abstractmethod
    def make_trainer(
        self, directory: Path, counters: RunCounters, limits: LimitsCallback, callbacks: Sequence[TrainerCallback]
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
        """Free what the method holds."""

    @cached_property
    def new_tokens(self) -> dict[int, list[int]]:
        """Tokens that the base lacks, by id, and the pieces whose rows theirs start from."""
        model = self.recipe.model
        where = model.tokenizer if isinstance(model.tokenizer, str) else model.path
        if model.path is None or where is None:  # a model from scratch has its tokenizer's tokens
            return {}
        return pieces_of_new_tokens(self.recipe.data.add_tokens, where, model.revision if where == model.path else None)

    def adapted(self, base: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Return the model that is trained: with LoRA if the recipe says so."""
        lora = self.recipe.train.lora
        if lora is None:
            if self.new_tokens:
                refuse_frozen_rows(base)
            return base
        return add_lora(base, with_trained_rows(base, lora, sorted(self.new_tokens)), seed=self.recipe.seed)

    def guards(self, counters: RunCounters) -> Guards:
        """Return what every trainer gets from the recipe."""
        train = self.recipe.train
        return Guards(counters, train.max_nonfinite_steps, self._optimizer_maker(), train.ema)

    def _optimizer_maker(self) -> Callable[[nn.Module], torch.optim.Optimizer] | None:
        """Return what makes the optimiser that `train.optimizer` names; None: the parent makes that of `args.optim`."""
        chosen = self.recipe.train.optimizer
        if chosen is None:
            return None
        house = OPTIMIZERS.get(chosen.name)
        make = named("optimizers", chosen.name) if house is None else resolve(house.make)
        assert make is not None, "the recipe was checked"
        return partial(make, args=self.args, **chosen.options)
