"""Evaluations over environments side by side: scores, who dominates whom under a rule, and what n can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from agentforge.errors import UserError, did_you_mean
from agentforge.evaluation.comparable import refuse_mixed
from agentforge.evaluation.scores_file import read_scores
from agentforge.evaluation.statistics.dominance import RULES, Bools, Side, dominates
from agentforge.evaluation.statistics.intervals import Array
from agentforge.evaluation.statistics.posterior import (
    ROPE,
    SURE,
    declared_dominance,
    dominance_probability,
    draw_all,
    frontier_probability,
    together_probability,
)
from agentforge.evaluation.statistics.power import smallest_difference
from agentforge.evaluation.tasks.episode_results import asked_otherwise, paired, read_results

POSTERIOR = "posterior"


@dataclass(frozen=True)
class Evaluation:
    """One model's scores over environments, as read from its directory.

    Attributes:
        label: distinct among those that are compared.
        report: scores.json.
        table: results.parquet.
    """

    path: Path
    label: str
    report: dict[str, Any]
    table: pa.Table

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.report["environments"]["scores"]
        return found

    @property
    def decoding(self) -> dict[str, Any] | None:
        """How a model wrote its turns; None for the expert and the trivial strategies, which write none."""
        found: dict[str, Any] = self.report["environments"]["decoding"]
        return None if self.report["model"]["kind"] == "scripted" else found


def read_evaluations(paths: Sequence[Path], mixed: bool = False) -> list[Evaluation]:
    """Read evaluations that have environments, in their order.

    Args:
        mixed: let models pass that were decoded in different ways.

    Raises:
        UserError: they were not made on the same tasks, or not decoded in the same way.
    """
    reports = [read_scores(path) for path in paths]
    read = [
        Evaluation(path, label, report, read_results(path))
        for path, label, report in zip(paths, labels(reports), reports, strict=True)
        if "environments" in report
    ]
    for one in read[1:]:
        _check_comparable(read[0], one)
    if not mixed:
        models = [(one.path.name, one.decoding) for one in read if one.decoding is not None]
        refuse_mixed([name for name, _ in models], [decoding for _, decoding in models])
    return read


def contenders(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the models, without experts and trivial strategies; those where there is nothing else."""
    models = [one for one in evaluations if one.report["model"]["kind"] != "scripted"]
    return models or list(evaluations)


def labels(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Return a short name for each report: its model's, with the recipe's where two have the same."""
    short = [str(report["model"]["label"]) for report in reports]
    full = [f"{report['recipe']} {label}" for report, label in zip(reports, short, strict=True)]
    return [long if short.count(label) > 1 else label for label, long in zip(short, full, strict=True)]


def _check_comparable(first: Evaluation, other: Evaluation) -> None:
    hashes = [{name: entry["hash"] for name, entry in one.scores.items()} for one in (first, other)]
    if hashes[0] != hashes[1]:
        differ = sorted(name for name in {**hashes[0], **hashes[1]} if hashes[0].get(name) != hashes[1].get(name))
        raise UserError(
            f"{other.path.name} and {first.path.name} were not made on the same tasks of {', '.join(differ)}; "
            "evaluate both with the same environments, tasks and seed"
        )
    if first.report["environments"]["confidence"] != other.report["environments"]["confidence"]:
        raise UserError(f"{other.path.name} and {first.path.name} have intervals of different confidence")
    if (found := asked_otherwise(first.table, other.table)) is not None:
        environment, task = found
        raise UserError(
            f"{other.path.name} and {first.path.name} were asked different things in task {task} of {environment}: its "
            "data or its instructions have changed in between; evaluate both again, with --replace"
        )


class Comparison:
    """Models on the same tasks; the first is the earliest, the incumbent.

    Args:
        evaluations: at least one.
        rope: differences up to this size mean nothing.
    """

    def __init__(self, evaluations: Sequence[Evaluation], rope: float = ROPE) -> None:
        self.evaluations = list(evaluations)
        self.rope = rope
        self.labels = [one.label for one in evaluations]
        self.environments = list(evaluations[0].scores)

    def headline(self, environment: str) -> str:
        """Return the measure by which models are compared: graded if any of them got a score in between."""
        graded = any(one.scores[environment]["headline"] == "mean" for one in self.evaluations)
        return "mean" if graded else "success_rate"

    @cached_property
    def paired(self) -> list[Array]:
        """Each environment's scores on the tasks that all models played, (tasks, models)."""
        tables = [one.table for one in self.evaluations]
        columns = {"mean": "score", "success_rate": "success"}
        return [paired(tables, name, columns[self.headline(name)]) for name in self.environments]

    @cached_property
    def drawn(self) -> Array:
        """Draws from the joint posterior, (draws, environments, models)."""
        return draw_all(self.paired)

    @cached_property
    def sides(self) -> Side:
        """What the rules read, (models, environments)."""
        measures = [[one.scores[name][self.headline(name)] for name in self.environments] for one in self.evaluations]
        entries = [[one.scores[name] for name in self.environments] for one in self.evaluations]
        played = np.array([[entry["n"] for entry in row] for row in entries], dtype=float)
        lost = np.array([[entry["lost"] for entry in row] for row in entries], dtype=float)
        value, low, high = (np.array([[m[key] for m in row] for row in measures]) for key in ("value", "low", "high"))
        return Side(value, played, low, high, np.arange(len(measures)), played / (played + lost))

    def dominates(self, rule: str) -> Bools:
        """Return (models, models): whether the row's model dominates the column's under a named rule.

        Raises:
            UserError: there is no such rule.
        """
        check_rule(rule)
        if rule == POSTERIOR:
            return self.declared
        return dominates(RULES[rule], self.sides)

    @cached_property
    def probability(self) -> Array:
        """(models, models): the posterior probability that the row's model dominates the column's, pair by pair."""
        return dominance_probability(self.drawn, self.rope)

    @cached_property
    def declared(self) -> Bools:
        """(models, models): the pairs that the rule `posterior` declares, in one statement about all models."""
        return declared_dominance(self.paired, self.drawn, self.rope)

    @property
    def together(self) -> float:
        """The posterior probability that everything that the rule `posterior` declares is true."""
        return together_probability(self.drawn, self.declared, self.rope)

    @cached_property
    def frontier_probability(self) -> Array:
        """(models,): the posterior probability that no model dominates it."""
        return frontier_probability(self.drawn, self.rope)

    def frontier(self, rule: str) -> list[str]:
        """Return the models that none dominates under a rule."""
        dominated = np.asarray(self.dominates(rule).any(axis=0))
        return [label for label, below in zip(self.labels, dominated, strict=True) if not below]

    def smallest_differences(self, a: int, b: int) -> list[float]:
        """Return for each environment the smallest true difference that these tasks find with 80 % power.

        Found is what lets the rule `posterior` call a model better there by more than the rope, with its correction for
        pairs and environments. Half a task won or lost is added to the variance, as in the posterior: models that
        always agree leave none.
        """
        found = []
        for scores in self.paired:
            variance = float((scores[:, a] - scores[:, b]).var()) if len(scores) else 1.0
            n = len(scores)
            sd = (variance + 0.5 / (n + 1)) ** 0.5
            found.append(self.rope + smallest_difference(sd, n, len(self.paired), (1 - SURE) / max(1, self.pairs)))
        return found

    @property
    def pairs(self) -> int:
        """Statements that the rule `posterior` might make: ordered pairs of models."""
        return len(self.labels) * (len(self.labels) - 1)


def check_rule(rule: str) -> None:
    """Raise UserError if there is no such rule."""
    known = [*RULES, POSTERIOR]
    if rule not in known:
        raise UserError(f"unknown rule '{rule}'{did_you_mean(rule, known)}; rules: {', '.join(known)}")
