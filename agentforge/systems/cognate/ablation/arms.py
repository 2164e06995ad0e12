"""What an arm of the ablation is, and what a question is: two arms that differ in one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentforge.artifacts import hash_json
from agentforge.systems.cognate.ablation.tasks.base import Task

Measure = Literal["accuracy", "solved rows", "steps to target"]


@dataclass(frozen=True)
class Arm:
    """One model, trained on one task in one way.

    Attributes:
        name: as the tables have it; unique in a battery.
        task: what is learnt.
        model: what its config changes of `battery.BASE`.
        steps: optimiser steps at most.
        batch: rows of a step.
        optimizer: of the hidden matrices; everything else is AdamW's in either case.
        rates: learning rates; of several, the best on `TUNING_SEED` is used for the seeds that count.
        weight_decay, grokfast: options of the optimiser; 0 switches Grokfast off.
        ema_memory: replaces each neural memory by an exponential moving average, the control.
        target: test accuracy at which a run has solved its task.
        stop: test accuracy that ends a run early, when it is reached twice in a row.
        every: steps between two tests.
        minutes: CPU-minutes of one run as measured, for the time that is shown before and during the battery.
    """

    name: str
    task: Task
    model: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 1000
    batch: int = 32
    optimizer: Literal["adamw", "muon"] = "adamw"
    rates: tuple[float, ...] = (3e-3,)
    weight_decay: float = 0.01
    grokfast: float = 0.0
    ema_memory: bool = False
    target: float = 0.95
    stop: float = 0.995
    every: int = 50
    minutes: float = 1.0

    @property
    def own_optimizer(self) -> bool:
        """Whether an optimiser of ours trains it, and not PyTorch's AdamW."""
        return self.optimizer == "muon" or self.grokfast > 0


@dataclass(frozen=True)
class Question:
    """What one change of the model or of its training does.

    Attributes:
        title: the question, for people.
        measure: what is compared; fewer steps are better, more of the other two.
        arms: names of all that are shown.
        pairs: (with, without) names whose difference is tested.
        note: what a reader must know to read the rows rightly.
    """

    title: str
    measure: Measure
    arms: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    note: str = ""


@dataclass(frozen=True)
class Battery:
    """All arms, the questions that they answer, and the seeds that each arm is run with."""

    name: str
    arms: tuple[Arm, ...]
    questions: tuple[Question, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        known = [arm.name for arm in self.arms]
        asked = {name for question in self.questions for name in (*question.arms, *sum(question.pairs, ()))}
        assert len(known) == len(set(known)) and asked <= set(known), sorted(asked - set(known))


TUNING_SEED = 1000
"""Rates are picked on a seed of its own. Picked on the seeds that are reported, the best of several rates would look
better than it is, and the arm with more rates to choose from would win."""


@dataclass(frozen=True)
class Run:
    """One training: an arm, a seed and a rate."""

    arm: Arm
    seed: int
    rate: float

    @property
    def identity(self) -> dict[str, Any]:
        """What the result depends on. Names and estimates are left out: renaming an arm trains nothing again."""
        depends = asdict(self.arm)
        for key in ("name", "rates", "minutes"):
            depends.pop(key)
        return depends | {"task": [self.arm.task.name, depends["task"]], "seed": self.seed, "rate": self.rate}

    @property
    def key(self) -> str:
        """Tells runs of one process apart."""
        return hash_json(self.identity)
