"""Evaluations over environments as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentforge.evaluation.comparable import decoding_rows
from agentforge.evaluation.compare.comparison import POSTERIOR, Comparison, Evaluation
from agentforge.evaluation.statistics.dominance import RULES
from agentforge.evaluation.statistics.intervals import jeffreys_coverage
from agentforge.evaluation.statistics.posterior import SURE
from agentforge.evaluation.statistics.power import POWER

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


def side_by_side(title: str, caption: str, note: str, headings: Sequence[str], labels: Sequence[str]) -> Table:
    """Return an empty table: a column for each heading, then one for each model.

    Args:
        caption: what a cell holds; with several models the marks are explained behind it.
        note: a line below it.
    """
    from rich.table import Table

    marks = "; ▲ ▼ apart from the first column, ≈ overlapping" if len(labels) > 1 else ""
    table = Table(title=title, caption=f"{caption}{marks}\n{note}".strip())
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for label in labels:
        table.add_column(label, justify="right")
    return table


def cells(measures: Sequence[dict[str, Any]]) -> list[str]:
    """Return each share with its interval; from the second on with a mark: where it lies to the first."""
    marks = ["", *(MARKS[relation(measure, measures[0])] for measure in measures[1:])]
    return [
        f"{m['value']:.1%} \\[{m['low']:.1%}, {m['high']:.1%}]{mark}" for m, mark in zip(measures, marks, strict=True)
    ]


def coverage_note(n: int, confidence: float) -> str:
    """Return a sentence on how often the Beta-Jeffreys interval of ``n`` trials contains the true rate."""
    coverage = jeffreys_coverage(n, confidence)
    return (
        f"with {n:,} trials, {_an(confidence)} Beta-Jeffreys interval contains the true rate {coverage.mean:.0%} "
        f"of the time on average over all rates, and {coverage.minimum:.0%} at worst"
    )


def _an(confidence: float) -> str:
    """Return the confidence with its article: "an 80%", "a 95%"."""
    shown = f"{confidence:.0%}"
    return f"{'an' if shown.startswith('8') else 'a'} {shown}"


def environment_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return a table with a column for each model and a row for each environment and aggregate."""
    first = evaluations[0]
    confidence = first.report["environments"]["confidence"]
    trials = [entry["n"] for one in evaluations for entry in one.scores.values() if not entry["graded"]]
    table = side_by_side(
        f"{first.report['recipe']}: reserved tasks of {len(first.scores)} environments",
        f"success rate (graded environments: mean score) [{confidence:.0%} interval]",
        coverage_note(min(trials), confidence) if trials else "",
        ("environment", "n", "chance", "best trivial"),
        [one.label for one in evaluations],
    )
    for name in first.scores:
        table.add_row(*_environment_row(evaluations, name))
    table.add_section()
    for name, title in AGGREGATES.items():
        totals = [one.report["environments"]["aggregates"][name] for one in evaluations]
        table.add_row(title, "", "", "", *cells(totals))
    table.add_section()
    for title, shown in [*decoding_rows([one.decoding for one in evaluations]), *_conduct(evaluations)]:
        table.add_row(title, "", "", "", *shown)
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
        *cells(measures),
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
        "Columns from the earliest. Each probability is of its pair alone",
    )
    table.add_column("")
    for label in comparison.labels:
        table.add_column(label, justify="right")
    for row, label in enumerate(comparison.labels):
        shown = [
            "" if row == column else f"{'● ' if found[row, column] else ''}{comparison.probability[row, column]:.2f}"
            for column in range(len(comparison.labels))
        ]
        table.add_row(label, *shown)
    return table


def _frontiers(comparison: Comparison, rule: str) -> Table:
    from rich.table import Table

    table = Table(
        title="Pareto frontier",
        caption=f"{POSTERIOR}: corrected for the number of models. All that it declares holds together with a "
        f"probability of {comparison.together:.3f} (at least {SURE:g})",
    )
    table.add_column("rule")
    for label in comparison.labels:
        table.add_column(label, justify="center")
    for name in (*RULES, POSTERIOR):
        on = comparison.frontier(name)
        marks = ["●" if label in on else "" for label in comparison.labels]
        table.add_row(f"[bold]{name}[/bold]" if name == rule else name, *marks)
    table.add_row("P(on the frontier)", *(f"{share:.2f}" for share in comparison.frontier_probability))
    return table


def _power(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table(
        title=f"the smallest true difference to {comparison.labels[0]} that is found with {POWER:.0%} power",
        caption=f"better by more than {comparison.rope:g} by the rule `{POSTERIOR}`: {1 - SURE:.0%} shared by "
        f"{comparison.pairs} ordered pairs and {len(comparison.environments)} environments, paired by task",
    )
    table.add_column("environment")
    table.add_column("tasks", justify="right")
    for label in comparison.labels[1:]:
        table.add_column(label, justify="right")
    smallest = [comparison.smallest_differences(other, 0) for other in range(1, len(comparison.labels))]
    for index, name in enumerate(comparison.environments):
        points = [f"{100 * row[index]:.1f} points" for row in smallest]
        table.add_row(name, str(len(comparison.paired[index])), *points)
    return table
