"""Evaluations over environments as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentforge.evaluation.compare.comparison import POSTERIOR, SURE, Comparison, Evaluation
from agentforge.evaluation.statistics.dominance import RULES
from agentforge.evaluation.statistics.power import ALPHA, POWER

if TYPE_CHECKING:
    from rich.table import Table

MARKS = {"above": " ▲", "below": " ▼", "overlaps": " ≈"}
AGGREGATES = {
    "weighted_accuracy": "accuracy, weighted by n",
    "weighted_mean": "mean score, weighted by n",
    "success_rate": "success rate, environments alike",
}


def relation(score: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Return ``above``, ``below`` or ``overlaps``: where an interval lies to another."""
    if score["low"] > baseline["high"]:
        return "above"
    return "below" if score["high"] < baseline["low"] else "overlaps"


def best_baseline(entry: dict[str, Any]) -> tuple[str, float] | None:
    """Return the best trivial strategy of an environment's scores and its value; None if it was not played."""
    values = {name: float(one[entry["headline"]]["value"]) for name, one in entry["baselines"].items()}
    return max(values.items(), key=lambda item: item[1]) if values else None


def environment_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return a table with a column for each model and a row for each environment and aggregate."""
    from rich.table import Table

    first = evaluations[0]
    percent = f"{first.report['environments']['confidence']:.0%}"
    table = Table(
        title=f"{first.report['recipe']}: reserved tasks of {len(first.scores)} environments",
        caption=f"success rate (graded environments: mean score) [{percent} interval]"
        + ("; ▲ ▼ apart from the first column, ≈ overlapping" if len(evaluations) > 1 else ""),
    )
    table.add_column("environment")
    for heading in ("n", "chance", "best trivial"):
        table.add_column(heading, justify="right")
    for one in evaluations:
        table.add_column(one.label, justify="right")
    for name in first.scores:
        table.add_row(*_environment_row(evaluations, name))
    table.add_section()
    for name, title in AGGREGATES.items():
        totals = [one.report["environments"]["aggregates"][name] for one in evaluations]
        table.add_row(title, "", "", "", *_cells(totals))
    table.add_section()
    for title, cells in _conduct(evaluations):
        table.add_row(title, "", "", "", *cells)
    return table


def _environment_row(evaluations: Sequence[Evaluation], name: str) -> list[str]:
    entry = evaluations[0].scores[name]
    sizes = sorted({one.scores[name]["n"] for one in evaluations})
    chance, best = entry["chance"], best_baseline(entry)
    measures = [one.scores[name][one.scores[name]["headline"]] for one in evaluations]
    return [
        name + (" (graded)" if entry["graded"] else ""),
        " ".join(map(str, sizes)),
        "" if chance is None else f"{chance:.1%}",
        "" if best is None else f"{best[0]} {best[1]:.1%}",
        *_cells(measures),
    ]


def _cells(measures: Sequence[dict[str, Any]]) -> list[str]:
    marks = ["", *(MARKS[relation(measure, measures[0])] for measure in measures[1:])]
    return [
        f"{m['value']:.1%} \\[{m['low']:.1%}, {m['high']:.1%}]{mark}" for m, mark in zip(measures, marks, strict=True)
    ]


def _conduct(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[str]]]:
    reports = [one.report["environments"] for one in evaluations]

    def over(key: str) -> list[float]:
        sums = [sum(entry[key] * entry["n"] for entry in one.scores.values()) for one in evaluations]
        return [total / max(1, report["episodes"]) for total, report in zip(sums, reports, strict=True)]

    lost = [sum(entry["lost"] for entry in one.scores.values()) for one in evaluations]
    rows = [
        ("valid actions", [f"{share:.1%}" for share in over("valid_actions")]),
        ("truncated episodes", [f"{share:.1%}" for share in over("truncated")]),
        ("turns of an episode", [f"{turns:.1f}" for turns in over("turns")]),
        ("new tokens", [f"{report['new_tokens']:,}" for report in reports]),
        ("seconds", [f"{report['seconds']:,.1f}" for report in reports]),
        ("dollars", [f"{report['dollars']:,.2f}" for report in reports]),
    ]
    return [*rows, ("lost episodes", [str(count) for count in lost])] if any(lost) else rows


def dominance_tables(comparison: Comparison, rule: str) -> list[Table]:
    """Return who dominates whom under a rule and in probability, the frontiers, and what the tasks can show."""
    return [_pairs(comparison, rule), _frontiers(comparison, rule), _power(comparison)]


def _pairs(comparison: Comparison, rule: str) -> Table:
    from rich.table import Table

    found = comparison.dominates(rule)
    table = Table(
        title=f"row dominates column: ● by the rule `{rule}`; posterior probability",
        caption=f"nowhere worse by more than {comparison.rope:g}, somewhere better by more; paired by task. "
        "Columns from the earliest",
    )
    table.add_column("")
    for label in comparison.labels:
        table.add_column(label, justify="right")
    for row, label in enumerate(comparison.labels):
        cells = [
            "" if row == column else f"{'● ' if found[row, column] else ''}{comparison.probability[row, column]:.2f}"
            for column in range(len(comparison.labels))
        ]
        table.add_row(label, *cells)
    return table


def _frontiers(comparison: Comparison, rule: str) -> Table:
    from rich.table import Table

    table = Table(title="Pareto frontier", caption=f"posterior: dominated where the probability is above {SURE}")
    table.add_column("rule")
    for label in comparison.labels:
        table.add_column(label, justify="center")
    for name in (*RULES, POSTERIOR):
        on = comparison.frontier(name)
        cells = ["●" if label in on else "" for label in comparison.labels]
        table.add_row(f"[bold]{name}[/bold]" if name == rule else name, *cells)
    table.add_row("P(on the frontier)", *(f"{share:.2f}" for share in comparison.frontier_probability))
    return table


def _power(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table(
        title=f"the smallest true difference to {comparison.labels[0]} that is found with {POWER:.0%} power",
        caption=f"one-sided, {ALPHA:.0%} shared by {len(comparison.environments)} environments, paired by task",
    )
    table.add_column("environment")
    table.add_column("tasks", justify="right")
    for label in comparison.labels[1:]:
        table.add_column(label, justify="right")
    smallest = [comparison.smallest_differences(other, 0) for other in range(1, len(comparison.labels))]
    for index, name in enumerate(comparison.environments):
        cells = [f"{100 * row[index]:.1f} points" for row in smallest]
        table.add_row(name, str(len(comparison.paired[index])), *cells)
    return table
