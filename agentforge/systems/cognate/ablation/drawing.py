"""The pictures: scores with chance, learning curves, exits against fixed depths, and who thought how long."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from agentforge.evaluation.report.svg import (
    Dot,
    PlanePoint,
    Series,
    drawing,
    interval_chart,
    joined,
    line_chart,
    plane,
    tag,
)
from agentforge.systems.cognate.ablation.exits import Depth, Exits
from agentforge.systems.cognate.ablation.summary import Answer

CELL, LABEL = 34, 150


def scores_chart(answer: Answer) -> Markup:
    """Draw the arms of a question on [0, 1], with chance and the best trivial strategy."""
    dots = [
        Dot(row.arm, colour, row.estimate.value, max(0.0, row.estimate.low), min(1.0, row.estimate.high))
        for colour, row in enumerate(answer.rows, start=1)
    ]
    # Both lines are accuracies of single answers; of whole rows they would say nothing.
    single = answer.question.measure == "accuracy"
    lines = (answer.chance, answer.trivial) if single else (None, None)
    return interval_chart(answer.question.title, dots, *lines)


def curves_chart(title: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Draw test accuracy over steps, a line for each arm."""
    return line_chart(title, [Series(name, colour, points) for colour, (name, points) in enumerate(curves.items(), 1)])


def exits_chart(title: str, exits: Exits) -> Markup:
    """Draw accuracy over mean steps: one line of fixed depths, one of exit thresholds."""
    lines = [
        (
            "every token takes the same number of steps",
            2,
            [_point(f"{one.steps.value:.0f}", one) for one in exits.fixed],
        ),
        ("each token leaves at a threshold", 1, [_point(f"{one.threshold:g}", one) for one in exits.adaptive]),
    ]
    return plane(title, "mean steps of the core", "accuracy", lines)


def _point(name: str, one: Depth) -> PlanePoint:
    value = one.accuracy.value
    # One seed has no interval; an infinite one cannot be drawn.
    low, high = (x if math.isfinite(x) else value for x in (one.accuracy.low, one.accuracy.high))
    return PlanePoint(name, one.steps.value, value, low, high)


def steps_picture(title: str, rows: Sequence[Mapping[str, Any]], most: int) -> Markup:
    """Draw rows of tokens, each as dark as it thought long; a wrong answer has a red frame.

    Args:
        rows: each with `name`, `tokens` (texts), `steps` and `right` (None where nothing was asked).
        most: steps that a token can take.
    """
    widest = max(len(row["tokens"]) for row in rows)
    width, height = LABEL + widest * CELL + 10, len(rows) * (CELL + 8) + 34
    parts: list[Markup] = []
    for number, row in enumerate(rows):
        y = 8 + number * (CELL + 8)
        parts.append(tag("text", row["name"], x=LABEL - 10, y=y + CELL / 2 + 4, class_="name end"))
        for place, (token, steps, right) in enumerate(zip(row["tokens"], row["steps"], row["right"], strict=True)):
            parts.append(_cell(LABEL + place * CELL, y, token, steps, right, most))
    parts.append(_shades(height - 16, most))
    return drawing(width, height, parts, title)


def _cell(x: float, y: float, token: str, steps: int, right: bool | None, most: int) -> Markup:
    frame = "stroke:#b3261e;stroke-width:2.5" if right is False else "stroke:none"
    said = {None: "", True: ", right", False: ", wrong"}[right]
    hover = tag("title", f"{token}: {steps} of {most} steps{said}")
    box = tag("rect", hover, x=x + 1, y=y, width=CELL - 2, height=CELL, rx=4, style=f"{_shade(steps, most)};{frame}")
    # Two numbers in a cell: the token, and small below it how long it thought.
    ink = "fill:#ffffff" if steps > most / 2 else "fill:var(--ink, #1b2330)"
    name = tag("text", token, x=x + CELL / 2, y=y + 15, class_="mid", style=ink)
    count = tag("text", str(steps), x=x + CELL / 2, y=y + 28, class_="tick mid", style=ink)
    return joined([box, name, count])


def _shade(steps: int, most: int) -> str:
    return f"fill:var(--s1);fill-opacity:{0.12 + 0.88 * (steps - 1) / max(1, most - 1):.2f}"


def _shades(y: float, most: int) -> Markup:
    parts = [tag("text", "steps", x=LABEL - 10, y=y + 11, class_="tick end")]
    for steps in range(1, most + 1):
        x = LABEL + (steps - 1) * CELL
        parts.append(tag("rect", x=x, y=y, width=14, height=14, rx=3, style=_shade(steps, most)))
        parts.append(tag("text", str(steps), x=x + 19, y=y + 11, class_="tick"))
    return joined(parts)
