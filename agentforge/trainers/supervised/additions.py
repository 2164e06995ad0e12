"""What a system adds to a supervised training: another objective, modules that only training needs, a say in each step.

A `TrainingPlan` is made from the recipe before anything is opened, so that what cannot be is refused before it costs
anything. When the model is there it gives its `Additions`, and the trainer of `objective_trainer` does the rest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from agentforge.trainers.guarded_trainer import GuardedTrainer


@dataclass(frozen=True)
class Moment:
    """When a step happens, which decides what is drawn for it.

    Attributes:
        step: optimiser steps that were made before.
        progress: share of the run that is over; 1 for a model that is trained on.
    """

    step: int
    progress: float = 1.0


class Objective(nn.Module, ABC):
    """A loss around a model. A module of its own, so that DDP sees one forward pass of one model.

    It returns sums over tokens, never means: only the trainer knows how many tokens the whole step has, over its
    micro-batches and processes, and a mean of means would weigh short batches more.
    """

    @abstractmethod
    def forward(
        self, moment: Moment, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over the trained tokens, and its named parts.

        Args:
            moment: the step.
            input_ids: `(B, T)`.
            labels: `(B, T)`, -100 where nothing is trained.
            attention_mask: `(B, T)`.

        Where the model keeps packed documents apart, rows are packed unless the recipe says no; the objective then gets
        `position_ids` `(B, T)` too, which restart at each document, and no mask.

        Returns:
            the loss with its gradient, and detached sums by name: each is logged as its mean a token. ``tokens`` must
            be among them: how many tokens were trained.
        """

    def evaluate(self, **inputs: Tensor) -> dict[str, Tensor] | None:
        """Return sums `(B,)` over the tokens of each row of an eval batch; None: the parent evaluates the whole model.

        ``tokens`` and ``loss`` must be among them. Rows and not one sum, because some come twice where processes share
        the eval rows, and the second time does not count.

        Args:
            inputs: of the collator: `input_ids`, `labels`, and `attention_mask` or `position_ids`.
        """
        return None

    def figures(self, means: dict[str, float]) -> dict[str, float]:
        """Return what is logged of the parts' means a token, for a line of training or of evaluation."""
        return means


@dataclass(frozen=True)
class Additions:
    """What comes to a training when its model is there.

    Attributes:
        objective: in place of the model's own loss; None: that one.
        modules: submodules of the model by name that only training needs; each is saved in a file of its own.
        on_optimizer: called once with the optimiser, to hook into its steps.
        before_clipping: called before the norm of the gradients is taken.
        callbacks: of transformers' Trainer, beside those that every training has.
        continued: the model was trained before, so `Moment.progress` is 1 from the start.
    """

    objective: Objective | None = None
    modules: dict[str, nn.Module] = field(default_factory=dict)
    on_optimizer: Callable[[torch.optim.Optimizer], None] | None = None
    before_clipping: Callable[[], None] | None = None
    callbacks: Sequence[TrainerCallback] = ()
    continued: bool = False


class TrainingPlan(ABC):
    """A system's wishes for one recipe, none of which can be refused any more."""

    def inputs(self) -> dict[str, Path | str]:
        """Return artefacts and models that the result depends on beside base and data."""
        return {}

    @abstractmethod
    def prepare(self, model: PreTrainedModel) -> Additions:
        """Return what is added; the model may be changed in place (frozen parts, new modules)."""

    def finish(self, trainer: GuardedTrainer, directory: Path) -> dict[str, Any]:
        """Make what lies beside the saved model, on every process; returns more for the manifest."""
        return {}
