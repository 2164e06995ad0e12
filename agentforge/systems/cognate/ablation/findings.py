"""What a battery found, as one JSON file: all that the tables and the pictures are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from agentforge.artifacts import write_json
from agentforge.systems.cognate.ablation.arms import Battery
from agentforge.systems.cognate.ablation.exits import Exits, exits_of
from agentforge.systems.cognate.ablation.summary import CONFIDENCE, Answer, Outcome, answers

FILE = "ablation.json"


@dataclass(frozen=True)
class Findings:
    """What is shown.

    Attributes:
        battery, seeds, confidence: what was run; the mass of the intervals.
        answers: one for each question.
        curves: question's title to arm to mean test accuracy over steps.
        other_tests: arm to test to accuracy over seeds: longer gaps than in training.
        exits: arms with halting.
        picture: a few rows of the first such arm: what each token was and how long it thought.
        cpu_minutes: of all runs.
    """

    battery: str
    seeds: tuple[int, ...]
    confidence: float
    answers: tuple[Answer, ...]
    curves: dict[str, dict[str, list[tuple[float, float]]]]
    other_tests: dict[str, dict[str, list[float]]]
    exits: tuple[Exits, ...]
    picture: dict[str, Any] | None
    cpu_minutes: float


def findings_of(battery: Battery, outcomes: Mapping[str, Mapping[int, Outcome]], cpu_seconds: float) -> Findings:
    """Sum up a battery.

    Args:
        outcomes: arm to seed to outcome.
        cpu_seconds: of all runs, those that tuned rates included.
    """
    found = tuple(answers(battery, outcomes))
    runs = {name: [by_seed[seed] for seed in sorted(by_seed)] for name, by_seed in outcomes.items() if by_seed}
    exits = [one for name in runs if (one := exits_of(name, runs[name])) is not None]
    return Findings(
        battery=battery.name,
        seeds=battery.seeds,
        confidence=CONFIDENCE,
        answers=found,
        curves={one.question.title: {row.arm: mean_curve(runs[row.arm]) for row in one.rows} for one in found},
        other_tests={name: _tests(one) for name, one in runs.items() if len(one[0]["tests"]) > 1},
        exits=tuple(exits),
        picture=runs[exits[0].arm][0]["picture"] if exits else None,
        cpu_minutes=cpu_seconds / 60,
    )


def _tests(runs: Sequence[Outcome]) -> dict[str, list[float]]:
    return {name: [run["tests"][name] for run in runs] for name in runs[0]["tests"]}


def mean_curve(runs: Sequence[Outcome]) -> list[tuple[float, float]]:
    """Return the mean curve of several runs; one that stopped early, its task solved, stays where it was."""
    steps = sorted({step for run in runs for step, _ in run["curve"]})
    return [(float(step), sum(_at(run["curve"], step) for run in runs) / len(runs)) for step in steps]


def _at(curve: Sequence[Sequence[float]], step: float) -> float:
    past = [accuracy for when, accuracy in curve if when <= step]
    return past[-1] if past else curve[0][1]


def write_findings(directory: Path, findings: Findings) -> None:
    write_json(directory / FILE, asdict(findings))


def read_findings(directory: Path) -> Findings:
    """Return what an artefact found."""
    # An interval of a single seed is infinite, which our JSON has as Python writes it: Infinity.
    return TypeAdapter(Findings).validate_python(json.loads((directory / FILE).read_text(encoding="utf-8")))
