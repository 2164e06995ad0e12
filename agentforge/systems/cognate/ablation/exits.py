"""Do tokens that leave early cost anything, and is it better than the same number of steps dealt out blindly?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from agentforge.systems.cognate.ablation.summary import Estimate, Outcome, difference_in_words, mean_over_seeds

Point = Mapping[str, Any]
"""``steps``, ``accuracy`` and ``loss`` of one model at one depth or threshold."""


@dataclass(frozen=True)
class Depth:
    """Every token takes the same number of steps."""

    steps: Estimate
    accuracy: Estimate
    loss: Estimate


@dataclass(frozen=True)
class Exit(Depth):
    """Each token leaves when its cumulative halting probability reaches the threshold.

    Attributes:
        threshold: the higher, the longer tokens think.
        over_full: accuracy minus that of the full depth, by seed.
        loss_over_full: loss divided by that of the full depth, minus 1.
        over_blind: accuracy minus that of equally many steps dealt out blindly.
        by_position: mean steps at each position of the row.
        cost: in words, what leaving early costs.
    """

    threshold: float
    over_full: Estimate
    loss_over_full: Estimate
    over_blind: Estimate
    by_position: tuple[float, ...]
    cost: str


@dataclass(frozen=True)
class Exits:
    """What an arm with halting does at each fixed depth and at each threshold."""

    arm: str
    fixed: tuple[Depth, ...]
    adaptive: tuple[Exit, ...]


def exits_of(arm: str, runs: Sequence[Outcome]) -> Exits | None:
    """Return the exits of an arm over its seeds; None: the arm has no halting."""
    found = [run["exits"] for run in runs if run["exits"] is not None]
    if not found:
        return None
    fixed = tuple(
        Depth(*(mean_over_seeds([point[key] for point in points]) for key in ("steps", "accuracy", "loss")))
        for points in zip(*(one["fixed"] for one in found), strict=True)
    )
    by_threshold = zip(*(one["adaptive"] for one in found), strict=True)
    return Exits(arm, fixed, tuple(_exit(points, [one["fixed"] for one in found]) for points in by_threshold))


def _exit(points: Sequence[Point], fixed: Sequence[Sequence[Point]]) -> Exit:
    """Return one threshold over seeds; differences are taken within a seed's own model."""
    full = [depths[-1] for depths in fixed]
    over_full = mean_over_seeds([p["accuracy"] - f["accuracy"] for p, f in zip(points, full, strict=True)])
    blind = [interpolated(depths, p["steps"], "accuracy") for p, depths in zip(points, fixed, strict=True)]
    positions = np.mean([p["by_position"] for p in points], axis=0)
    return Exit(
        steps=mean_over_seeds([p["steps"] for p in points]),
        accuracy=mean_over_seeds([p["accuracy"] for p in points]),
        loss=mean_over_seeds([p["loss"] for p in points]),
        threshold=points[0]["threshold"],
        over_full=over_full,
        loss_over_full=mean_over_seeds([p["loss"] / f["loss"] - 1 for p, f in zip(points, full, strict=True)]),
        over_blind=mean_over_seeds([p["accuracy"] - b for p, b in zip(points, blind, strict=True)]),
        by_position=tuple(float(x) for x in positions),
        cost=difference_in_words(over_full),
    )


def interpolated(fixed: Sequence[Point], steps: float, key: str) -> float:
    """Return what fixed depths give at a mean of ``steps``: between two depths, a mixture of both.

    That is the fair opponent of adaptive exits: as many steps, dealt out to tokens without looking at them.
    """
    for below, above in pairwise(fixed):
        if below["steps"] <= steps <= above["steps"]:
            share = (steps - below["steps"]) / (above["steps"] - below["steps"])
            return float((1 - share) * below[key] + share * above[key])
    return float((fixed[0] if steps < fixed[0]["steps"] else fixed[-1])[key])
