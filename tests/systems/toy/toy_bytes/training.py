"""The toy's objective, its optimiser, and a schedule over its sources."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments

from agentforge.recipe.schema import Recipe
from agentforge.recipe.section import keys_of
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.supervised.additions import Additions, Moment, Objective, TrainingPlan
from toy_bytes import Echo, ToyData, ToyTrain


class EchoObjective(Objective):
    def __init__(self, model: PreTrainedModel, weight: float) -> None:
        super().__init__()
        self.model, self.weight = model, weight

    def forward(
        self, moment: Moment, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.model(input_ids).logits[:, :-1]
        trained = labels[:, 1:] != -100
        following = functional.cross_entropy(logits[trained], labels[:, 1:][trained], reduction="sum")
        echo = functional.cross_entropy(logits[trained], input_ids[:, :-1][trained], reduction="sum")
        parts = {"loss/next": following.detach(), "loss/echo": echo.detach(), "tokens": trained.sum()}
        return following + self.weight * echo, parts


class StepCount(TrainerCallback):
    """A callback of the system's own."""

    last = 0

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.last = state.global_step


class EchoPlan(TrainingPlan):
    def __init__(self, echo: Echo) -> None:
        self.echo, self.steps = echo, StepCount()

    def prepare(self, model: PreTrainedModel) -> Additions:
        return Additions(objective=EchoObjective(model, self.echo.weight), callbacks=[self.steps])

    def finish(self, trainer: GuardedTrainer, directory: Path) -> dict[str, Any]:
        """Write a file beside the weights; what is returned stands in the manifest."""
        (directory / "echo.json").write_text(json.dumps(self.echo.model_dump()), encoding="utf-8")
        return {"echo_steps": self.steps.last}


def training_plan(recipe: Recipe, arguments: Any) -> EchoPlan | None:
    echo = keys_of(recipe.train, ToyTrain).echo
    return EchoPlan(echo) if echo is not None else None


@dataclass(frozen=True)
class FirstThen:
    first: tuple[str, ...]
    then: str

    def shares(self, progress: float) -> Mapping[str, float]:
        return dict.fromkeys(self.first, 1.0) if progress < 0.5 else {self.then: 1.0}


def schedule(recipe: Recipe) -> FirstThen | None:
    then = keys_of(recipe.data, ToyData).then
    if then is None:
        return None
    return FirstThen(tuple(source.dataset for source in recipe.data.mix if source.dataset != then), then)


class Signum(torch.optim.Optimizer):
    """The sign of a momentum (Bernstein et al., arXiv 1802.04434)."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                state.setdefault("average", torch.zeros_like(weight))
                state["average"].lerp_(weight.grad, 1 - group["momentum"])
                weight.add_(state["average"].sign(), alpha=-group["lr"])


def make_signum(model: nn.Module, args: TrainingArguments, momentum: float = 0.9) -> Signum:
    return Signum((weight for weight in model.parameters() if weight.requires_grad), args.learning_rate, momentum)
