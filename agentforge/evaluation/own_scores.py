"""Scores as figures with intervals under names of their own, of the house or of a system, shown wherever scores are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agentforge.artifacts import Workspace
from agentforge.evaluation.scores_file import read_scores
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Recipe
from agentforge.references import resolve
from agentforge.systems.registry import named, names_of

OWN = "own"
"""Key of scores.json under which they are stored."""
HOUSE = {
    # before anything that opens weights: whether its rows are here should be known first
    "benchmarks": "agentforge.evaluation.benchmarks.evaluate_benchmarks:evaluate_benchmarks",
    "bpc": "agentforge.evaluation.bits.evaluate_bits:evaluate_bits",
}
"""Keys of `evaluate` that any model can be measured by, and what does it: as `System.evaluations` has it."""


@dataclass(frozen=True)
class Figure:
    """One measured quantity.

    Attributes:
        value, low, high: the estimate and its interval.
        n: what it was measured on: rows, tokens, tasks.
        chance: what knowing nothing would give; None: there is no such value.
        unit: for people: ``bits a byte``.
        majority: what the most frequent answer, always given, would score; None: there is no such value.
        measured_on: where the figures of one evaluation were measured on different things (benchmarks): what this one
            was measured on and how, as `Scores.measured_on` says it of all.
    """

    value: float
    low: float
    high: float
    n: int
    chance: float | None = None
    unit: str = ""
    majority: float | None = None
    measured_on: str = ""


@dataclass(frozen=True)
class Scores:
    """What one of a system's evaluations found.

    Attributes:
        title: a line for people.
        measured_on: identifies what was measured on and how; figures of another are never put beside these.
        confidence: of the intervals.
        figures: by name.
    """

    title: str
    measured_on: str
    confidence: float
    figures: Mapping[str, Figure]


def evaluation_names() -> list[str]:
    """Return the keys of `evaluate` whose scores are figures: the house's and the systems'."""
    return [*HOUSE, *names_of("evaluations")]


def asked_for(recipe: Recipe) -> list[str]:
    """Return those that the recipe sets."""
    return [name for name in evaluation_names() if getattr(recipe.evaluate, name) is not None]


def evaluate_own(recipe: Recipe, location: ModelLocation, work: Workspace) -> dict[str, Any]:
    """Run the evaluations that the recipe asks for, and return their part of scores.json."""
    found: dict[str, Any] = {}
    for name in asked_for(recipe):
        evaluation = resolve(HOUSE[name]) if name in HOUSE else named("evaluations", name)
        assert evaluation is not None
        scores: Scores = evaluation(recipe, location, work)
        found[name] = asdict(scores)
        work.metrics.update({f"{name}/{key}": figure.value for key, figure in scores.figures.items()})
    return {OWN: found} if found else {}


@dataclass(frozen=True)
class OwnGroup:
    """Models that were measured on the same: a column each, a row for each figure."""

    title: str
    confidence: float
    labels: list[str]
    rows: dict[str, list[Figure | None]]


def own_groups(paths: Sequence[Path]) -> list[OwnGroup]:
    """Return what systems' evaluations found, in groups that may be put side by side."""
    together: dict[tuple[str, str, float], list[tuple[str, dict[str, Any]]]] = {}
    for path in paths:
        report = read_scores(path)
        for name, scores in report.get(OWN, {}).items():
            # The key holds everything that makes two figures comparable, so a table never mixes different measurements.
            key = name, scores["measured_on"], scores["confidence"]
            together.setdefault(key, []).append((report["model"]["label"], scores))
    return [_group(columns, confidence) for (_, _, confidence), columns in together.items()]


def _group(columns: list[tuple[str, dict[str, Any]]], confidence: float) -> OwnGroup:
    of_models = [{name: Figure(**found) for name, found in scores["figures"].items()} for _, scores in columns]
    # In order of first appearance; a figure that a model lacks (an exit it does not have) is an empty cell.
    keys = dict.fromkeys((name, figure.measured_on) for own in of_models for name, figure in own.items())
    names = [name for name, _ in keys]
    rows = {}
    for name, on in keys:
        # The same benchmark on other rows, or asked otherwise, is a row of its own.
        title = f"{name} #{on.removeprefix('sha256:')[:6]}" if names.count(name) > 1 else name
        rows[title] = [found if (found := own.get(name)) and found.measured_on == on else None for own in of_models]
    return OwnGroup(columns[0][1]["title"], confidence, [label for label, _ in columns], rows)


def verdict(figure: Figure) -> str:
    """Return what to say of a figure that chance, or one constant answer, would reach as well; "": nothing."""
    if any(level is not None and figure.low <= level <= figure.high for level in (figure.chance, figure.majority)):
        return "not distinguishable from chance"
    if figure.majority is not None and figure.high < figure.majority:
        return "below the majority level"
    return ""


def cell(figure: Figure | None) -> str:
    """Return a figure for people: value, interval, n, and whether chance would explain it."""
    if figure is None:
        return ""
    said = verdict(figure)
    return f"{figure.value:.4g} [{figure.low:.4g}, {figure.high:.4g}] (n {figure.n:,}){f'; {said}' if said else ''}"


def heading(name: str, figures: Sequence[Figure | None]) -> str:
    """Return the name of a row, with its unit, what chance would give and what the most frequent answer would."""
    known = next(figure for figure in figures if figure is not None)
    chance = f", chance {known.chance:.4g}" if known.chance is not None else ""
    majority = f", majority {known.majority:.4g}" if known.majority is not None else ""
    return f"{name.replace('_', ' ')}{f', {known.unit}' if known.unit else ''}{chance}{majority}"


def page_groups(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return sections for a report's page."""
    return [
        {
            "id": f"own-{number}",
            "title": group.title,
            "explanation": f"Value [{group.confidence:.0%} interval] (n).",
            "charts": [],
            "tables": [
                {
                    "headings": ["", *group.labels],
                    "rows": [[heading(name, row), *map(cell, row)] for name, row in group.rows.items()],
                    "caption": None,
                }
            ],
            "tiles": [],
        }
        for number, group in enumerate(own_groups(paths))
    ]
