"""From runs to answers: means over seeds with intervals, and differences between arms of the same seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agentforge.evaluation.statistics.intervals import ratio_t
from agentforge.systems.cognate.ablation.arms import Arm, Battery, Measure, Question

CONFIDENCE = 0.95
NO_EFFECT = "no measurable effect"
UNCLEAR = "cannot be told from noise"
"""An effect may still be there: only an interval within `SMALL` or `FEW_TIMES` rules out a large one."""
SMALL = 0.05
FEW_TIMES = 1.5

Outcome = Mapping[str, Any]
"""What `training.train` returns for one run."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval; one seed has no interval."""

    value: float
    low: float
    high: float
    seeds: int


@dataclass(frozen=True)
class Effect:
    """What one arm gains over another.

    Attributes:
        arm, against: their names.
        estimate: of the difference, or of the ratio of steps.
        verdict: in words; `NO_EFFECT` or `UNCLEAR` where the interval does not exclude "none".
    """

    arm: str
    against: str
    estimate: Estimate
    verdict: str


@dataclass(frozen=True)
class Row:
    """An arm in a table.

    Attributes:
        arm: its name.
        estimate: of the question's measure.
        reached: seeds that reached the target.
        parameters, flops: of the model, and of one token forward.
        rate: that it was trained with.
        cpu_seconds: mean of a run.
    """

    arm: str
    estimate: Estimate
    reached: int
    parameters: int
    flops: float
    rate: float
    cpu_seconds: float


@dataclass(frozen=True)
class Answer:
    """A question with its rows and effects."""

    question: Question
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]
    chance: float
    trivial: float
    trivial_is: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measured(outcome: Outcome, measure: Measure) -> float:
    """Return one run's number.

    A run that never reached the target counts with the steps that it was given. That is too few, so such an arm looks
    better than it is; the tables say how many seeds reached it.
    """
    if measure == "steps to target":
        return float(outcome["reached"] or outcome["budget"])
    return float(outcome["accuracy" if measure == "accuracy" else "solved_rows"])


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean and its Student-t interval over seeds: each seed is one independent measurement."""
    if len(values) < 2:
        return Estimate(values[0], -math.inf, math.inf, 1)
    mean, low, high = ratio_t(np.array(values, dtype=float), np.ones(len(values)), CONFIDENCE)
    return Estimate(mean, low, high, len(values))


def effect(question: Question, pair: tuple[str, str], outcomes: Mapping[str, Mapping[int, Outcome]]) -> Effect:
    """Return what an arm gains over another, from the seeds that both were run with.

    Paired, since two arms of one seed see the same rows in the same order: what that seed's data did to both cancels.
    """
    ours, theirs = (outcomes[name] for name in pair)
    values = [
        (measured(ours[seed], question.measure), measured(theirs[seed], question.measure))
        for seed in sorted(ours.keys() & theirs.keys())
    ]
    if question.measure != "steps to target":
        estimate = mean_over_seeds([one - other for one, other in values])
        return Effect(*pair, estimate, difference_in_words(estimate))
    # Steps are compared by their ratio: twice as fast is twice as fast, at 500 steps and at 5,000.
    logs = mean_over_seeds([math.log(other / one) for one, other in values])
    # Above some e^700 a float overflows; the interval of two seeds that disagree can be that wide.
    value, low, high = (math.exp(min(x, 700.0)) for x in (logs.value, logs.low, logs.high))
    ratio = Estimate(value, low, high, logs.seeds)
    return Effect(*pair, ratio, _ratio_in_words(ratio))


def difference_in_words(one: Estimate) -> str:
    """Return what a difference of two accuracies shows."""
    if one.low <= 0 <= one.high:
        return NO_EFFECT if max(-one.low, one.high) <= SMALL else UNCLEAR
    return f"{'helps' if one.value > 0 else 'hurts'}: {one.value * 100:+.1f} points"


def _ratio_in_words(one: Estimate) -> str:
    if one.low <= 1 <= one.high:
        return NO_EFFECT if one.low >= 1 / FEW_TIMES and one.high <= FEW_TIMES else UNCLEAR
    return f"helps: {one.value:.1f}x fewer steps" if one.value > 1 else f"hurts: {1 / one.value:.1f}x more steps"


def answers(battery: Battery, outcomes: Mapping[str, Mapping[int, Outcome]]) -> list[Answer]:
    """Return what a battery found.

    Args:
        outcomes: arm to seed to outcome; an arm that has none is left out, and so is a pair without it.
    """
    arms = {arm.name: arm for arm in battery.arms}
    found = []
    for question in battery.questions:
        names = [name for name in question.arms if outcomes.get(name)]
        if not names:
            continue
        rows = tuple(_row(arms[name], question.measure, outcomes[name]) for name in names)
        pairs = [pair for pair in question.pairs if all(outcomes.get(name) for name in pair)]
        effects = tuple(effect(question, pair, outcomes) for pair in pairs)
        task = arms[names[0]].task
        found.append(Answer(question, rows, effects, task.chance, task.trivial, task.trivial_is))
    return found


def _row(arm: Arm, measure: Measure, by_seed: Mapping[int, Outcome]) -> Row:
    runs = [by_seed[seed] for seed in sorted(by_seed)]
    return Row(
        arm.name,
        mean_over_seeds([measured(run, measure) for run in runs]),
        sum(run["reached"] is not None for run in runs),
        runs[0]["parameters"],
        runs[0]["flops_per_token"],
        runs[0]["rate"],
        float(np.mean([run["cpu_seconds"] for run in runs])),
    )
