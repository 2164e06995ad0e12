"""The tables: one for each question, one for exits, one for longer gaps; as Markdown and for a report's page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentforge.systems.cognate.ablation.exits import Exits
from agentforge.systems.cognate.ablation.findings import Findings
from agentforge.systems.cognate.ablation.summary import Answer, Effect, Estimate, Row


@dataclass(frozen=True)
class Table:
    """Headings, rows of texts, and what a reader must know."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    caption: str


def share(one: Estimate) -> str:
    """Return an accuracy with its interval."""
    if not math.isfinite(one.low):
        return f"{one.value:.1%} (one seed)"
    return f"{one.value:.1%} [{max(0.0, one.low):.1%}, {min(1.0, one.high):.1%}]"


def number(one: Estimate, pattern: str = ".0f") -> str:
    """Return a number with its interval."""
    if not math.isfinite(one.low):
        return f"{one.value:{pattern}} (one seed)"
    return f"{one.value:{pattern}} [{one.low:{pattern}}, {one.high:{pattern}}]"


def points(one: Estimate) -> str:
    """Return a difference of two accuracies with its interval, in percentage points."""
    return number(Estimate(one.value * 100, one.low * 100, one.high * 100, one.seeds), "+.1f")


def question_table(answer: Answer) -> Table:
    """Return the arms of a question; what each gains over which other one stands in its row."""
    steps = answer.question.measure == "steps to target"
    effects: dict[str, list[Effect]] = {}
    for effect in answer.effects:
        effects.setdefault(effect.arm, []).append(effect)
    rows = [_row(row, effects.get(row.arm, []), steps) for row in answer.rows]
    headings = ["arm", answer.question.measure, "solved", "parameters", "FLOPs a token", "rate", "CPU-s", "effect"]
    caption = f"Chance {answer.chance:.1%}; {answer.trivial_is}: {answer.trivial:.1%}."
    return Table(answer.question.title, headings, rows, f"{caption} {answer.question.note}".strip())


def _row(row: Row, effects: Sequence[Effect], steps: bool) -> list[str]:
    return [
        row.arm,
        number(row.estimate) if steps else share(row.estimate),
        f"{row.reached} of {row.estimate.seeds}",
        f"{row.parameters:,}",
        f"{row.flops:,.0f}",
        f"{row.rate:g}",
        f"{row.cpu_seconds:.0f}",
        "; ".join(f"over {one.against}: {_effect(one, steps)}" for one in effects),
    ]


def _effect(one: Effect, steps: bool) -> str:
    # Of two seeds that disagree the interval of a ratio has no end worth writing out.
    size = number(one.estimate, ".3g") + "x" if steps else points(one.estimate)
    if math.isfinite(one.estimate.low):
        return f"{one.verdict} ({size})"
    return f"{size}, nothing to tell it from noise"


def exits_table(exits: Exits) -> Table:
    """Return what each threshold costs and saves."""
    fixed = [
        [
            f"all {one.steps.value:.0f}",
            number(one.steps, ".2f"),
            share(one.accuracy),
            number(one.loss, ".3f"),
            "",
            "",
            "",
        ]
        for one in exits.fixed
    ]
    adaptive = [
        [f"threshold {one.threshold:g}", number(one.steps, ".2f"), share(one.accuracy), number(one.loss, ".3f"),
         f"{points(one.over_full)}: {one.cost}", f"{number(_percent(one.loss_over_full), '+.1f')} %",
         points(one.over_blind)]
        for one in exits.adaptive
    ]  # fmt: skip
    headings = ["steps", "mean steps", "accuracy", "loss", "over the full depth", "loss over the full depth",
                "over equally many blind steps"]  # fmt: skip
    caption = (
        "Blind: fixed depths, mixed so that their mean is the same number of steps. Differences are in points of "
        "accuracy, taken within each seed's model."
    )
    return Table(f"Adaptive halting: {exits.arm}", headings, [*fixed, *adaptive], caption)


def _percent(one: Estimate) -> Estimate:
    return Estimate(100 * one.value, 100 * one.low, 100 * one.high, one.seeds)


def positions_table(exits: Exits) -> Table:
    """Return how long tokens think at each place of the row: a later product needs more of them."""
    places = range(len(exits.adaptive[0].by_position))
    rows = [[f"threshold {one.threshold:g}", *(f"{one.by_position[i]:.1f}" for i in places)] for one in exits.adaptive]
    return Table(
        f"Mean steps by position: {exits.arm}", ["", *(str(i + 1) for i in places)], rows, "Positions count from 1."
    )


def tests_table(findings: Findings) -> Table | None:
    """Return accuracies on tests that are unlike the training: longer gaps."""
    tests = {test: None for by_test in findings.other_tests.values() for test in by_test if test.startswith("gap")}
    if not tests:
        return None
    rows = [
        [arm, *(f"{np.mean(by_test[test]):.1%}" for test in tests)]
        for arm, by_test in findings.other_tests.items()
        if set(tests) <= by_test.keys()
    ]
    caption = "Mean accuracy over seeds. Gaps longer than the first were never trained on."
    return Table("Recall at growing distance", ["arm", *tests], rows, caption)


def all_tables(findings: Findings) -> list[Table]:
    """Return every table, in the order of a page."""
    tables = [question_table(answer) for answer in findings.answers]
    longer = tests_table(findings)
    for exits in findings.exits:
        tables += [exits_table(exits), positions_table(exits)]
    return [*tables, *([longer] if longer is not None else [])]


def markdown(findings: Findings) -> str:
    """Return all tables as Markdown."""
    seeds = ", ".join(map(str, findings.seeds))
    head = (
        f"Seeds {seeds}; {findings.confidence:.0%} Student-t intervals over seeds; {findings.cpu_minutes:.0f} "
        "CPU-minutes in all. An effect is the difference of two arms on the same seeds."
    )
    return "\n\n".join([head, *map(_markdown, all_tables(findings))]) + "\n"


def _markdown(table: Table) -> str:
    rule = "|---" + "|--:" * (len(table.headings) - 1) + "|"
    lines = [f"| {' | '.join(row)} |" for row in (table.headings, *table.rows)]
    return "\n".join([f"### {table.title}", "", lines[0], rule, *lines[1:], "", table.caption])
