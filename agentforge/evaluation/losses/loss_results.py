"""Evaluations of losses side by side: those on the same rows, differences pair by pair, models of equal size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.evaluation.compare.comparison import labels
from agentforge.evaluation.scores_file import read_scores
from agentforge.evaluation.statistics.intervals import Array, ratio_t

LOSSES = "losses.json"
FULL = "1"
"""The name of the whole model among its widths."""
NEVER = "never"
"""The name of no threshold among thresholds: every token takes all steps."""
WORTH = 0.01
"""A loss that is higher by less than this share counts as unchanged when it is said what a threshold saves."""


@dataclass(frozen=True)
class LossEvaluation:
    """One model's losses, as read from its directory.

    Attributes:
        label: distinct among those that were read together.
        model: as it stands in scores.json: label, kind, path, base.
        report: the part `losses` of scores.json.
    """

    path: Path
    label: str
    model: dict[str, Any]
    report: dict[str, Any]

    @property
    def widths(self) -> dict[str, dict[str, Any]]:
        """What was measured at each width."""
        found: dict[str, dict[str, Any]] = self.report["widths"]
        return found

    @cached_property
    def rows(self) -> dict[str, Any]:
        """Tokens and losses of every row."""
        found: dict[str, Any] = json.loads((self.path / LOSSES).read_text(encoding="utf-8"))["rows"]
        return found

    def row_losses(self, width: str) -> Array:
        """Return (rows,) the sum of the loss of each row, in nats."""
        return np.array(self.rows["widths"][width])

    @cached_property
    def from_scratch(self) -> bool:
        """Whether a training made the model from a config, as its manifest tells: no base with weights."""
        path = Path(self.model["path"])
        if not (path / MANIFEST).is_file():
            return False
        manifest = read_manifest(path)
        base = manifest["inputs"].get("base", {})
        # a base from the Hub is known by NAME@COMMIT, a config by its hash
        return manifest["stage"] == "train" and "path" not in base and "@" not in base.get("id", "@")

    @cached_property
    def trained_tokens(self) -> int:
        """Tokens that the model and what it was made from were trained on, as far as their manifests tell."""
        found, path = 0, self.model["path"]
        seen: set[str] = set()
        while path is not None and path not in seen and (Path(path) / MANIFEST).is_file():
            seen.add(path)
            manifest = read_manifest(Path(path))
            found += int(manifest["metrics"].get("tokens", 0)) if manifest["stage"] == "train" else 0
            path = manifest["inputs"].get("base", {}).get("path")
        return found


def read_losses(paths: Sequence[Path]) -> list[LossEvaluation]:
    """Return those of several evaluations that have losses, in their order."""
    found = [(path, report) for path in paths if "losses" in (report := read_scores(path))]
    short = shortened([str(report["recipe"]) for _, report in found])
    names = labels([{**report, "recipe": name} for name, (_, report) in zip(short, found, strict=True)])
    return [
        LossEvaluation(path, name, report["model"], report["losses"])
        for name, (path, report) in zip(names, found, strict=True)
    ]


def shortened(names: Sequence[str]) -> list[str]:
    """Return names without the hyphenated parts that all of them begin and end with."""
    # `aj-sft-v1` and `aj-base-v1` become `sft` and `base`: parts that all names share say nothing.
    parts = [name.split("-") for name in names]
    distinct = {tuple(own) for own in parts}
    if len(distinct) < 2:
        return list(names)
    shortest = min(map(len, distinct))
    # At least one part of the shortest name is left, even if all its parts are shared.
    front = next(n for n in range(shortest) if n == shortest - 1 or len({own[n] for own in distinct}) > 1)
    back = next(n for n in range(shortest) if n == shortest - 1 - front or len({own[-1 - n] for own in distinct}) > 1)
    return ["-".join(own[front : len(own) - back]) for own in parts]


def on_the_same_rows(evaluations: Sequence[LossEvaluation]) -> list[list[LossEvaluation]]:
    """Return them in groups that can be compared: the same rows and tokens, the same confidence."""
    groups: dict[tuple[str, float], list[LossEvaluation]] = {}
    for one in evaluations:
        groups.setdefault((one.report["data"]["hash"], one.report["confidence"]), []).append(one)
    return list(groups.values())


def alone(nested: LossEvaluation, width: str, others: Sequence[LossEvaluation]) -> LossEvaluation | None:
    """Return the model trained from scratch with exactly as many parameters as a width; None: there is none."""
    # The fair question about a nested width: would the same parameters, trained alone, have done better?
    size = nested.widths[width]["parameters"]
    for other in others:
        own = other.widths.get(FULL)
        if width != FULL and own and own["parameters"] == size and other.from_scratch and other.path != nested.path:
            return other
    return None


def difference(one: LossEvaluation, width: str, other: LossEvaluation) -> dict[str, float]:
    """Return how much higher a width's loss is than another model's at full width, row by row, in nats a token."""
    tokens = np.array(one.rows["tokens"], dtype=float)
    apart = one.row_losses(width) - other.row_losses(FULL)
    return interval(apart, tokens, one.report["confidence"])


def interval(sums: Array, tokens: Array, confidence: float) -> dict[str, float]:
    """Return value, low and high of a mean over tokens, from (rows,) sums and (rows,) tokens."""
    value, low, high = ratio_t(sums, tokens, confidence)
    return {"value": value, "low": low, "high": high}


def measures(one: LossEvaluation) -> dict[str, dict[str, Any]]:
    """Return everything that was measured of a model under readable names, each with its ``loss``."""
    found = {f"width {width}": entry for width, entry in one.widths.items()}
    found |= {f"exit after {layer}": entry for layer, entry in one.report["exits"].items()}
    found |= {f"exit threshold {name}": entry for name, entry in one.report.get("thresholds", {}).items()}
    return found | ({"calibrated exits": one.report["together"]} if one.report["together"] else {})


def all_of(keys: Sequence[Sequence[str]]) -> list[str]:
    """Return every key of several lists once, in the order in which they come."""
    return list(dict.fromkeys(key for some in keys for key in some))
