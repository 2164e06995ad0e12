"""A training method as the stage `train` sees it: what it reads, its arguments, its trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from agentforge.errors import UserError
from agentforge.models.build import add_lora, identify_base
from agentforge.recipe.methods import METHODS
from agentforge.recipe.optimizers import OPTIMIZERS
from agentforge.recipe.schema import Recipe, Train
from agentforge.recipe.section import is_default
from agentforge.references import resolve
from agentforge.systems.registry import named, system_keys, without_unused_keys
from agentforge.trainers.callbacks.limits import LimitsCallback
from agentforge.trainers.guarded_trainer import GuardedTrainer, Guards, RunCounters

# Where a method keeps what only the running training reads; below the checkpoints' directory, deleted at the end.
CACHE = "rows"

# Arguments that say where figures are shown and under which name.
REPORTING = {"report_to", "run_name", "project"}


def refuse_keys(train: Train) -> None:
    """Refuse keys of the supervised methods under another one, which would not read them.

    Raises:
        UserError: there is one.
    """
    if METHODS[train.method].supervised:
        return
    readers = " and ".join(name for name, spec in METHODS.items() if spec.supervised)
    for key in ("trainable", "keep", *system_keys("train")):
        if not is_default(train, key):
            raise UserError(f"train.{key} belongs to the methods {readers}; {train.method} does not read it")


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
        found["model"].pop("history")  # a condition on the base, not a part of it
        found["train"] = without_unused_keys("train", self.recipe.train)
        # Where the figures are sent does not change them: a tracker may be added to a run that has begun.
        found["train"]["args"] = {key: value for key, value in found["train"]["args"].items() if key not in REPORTING}
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

    def adapted(self, base: PreTrainedModel) -> PreTrainedModel | PeftModel:
        """Return the model that is trained: with LoRA if the recipe says so."""
        lora = self.recipe.train.lora
        return base if lora is None else add_lora(base, lora, seed=self.recipe.seed)

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
