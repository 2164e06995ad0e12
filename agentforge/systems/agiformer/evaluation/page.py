"""The thinking steps on a report's page: bits after each number of them, what each changes, and when patches stop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from agentforge.evaluation.own_scores import Figure
from agentforge.evaluation.report.svg import PlanePoint, colour, drawing, plane, tag
from agentforge.evaluation.scores_file import read_scores
from agentforge.systems.agiformer.evaluation.verdict import CHANGE, GAIN, GAIN_OVER, THINKING, WITHOUT, after

BAR, HEIGHT, LEFT, FOOT = 72, 170, 20, 44
Chart = dict[str, Any]


def page_groups(artifacts: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a section of the page for each evaluation that measured thinking steps."""
    measured = [path for path in artifacts if (path / THINKING).is_file()]
    return [_group(number, path) for number, path in enumerate(measured)]


def _group(number: int, path: Path) -> dict[str, Any]:
    found = json.loads((path / THINKING).read_text(encoding="utf-8"))
    figures = {name: Figure(**figure) for name, figure in found["figures"].items()}
    label, confidence = read_scores(path)["model"]["label"], found["confidence"]
    charts = [bits_chart(label, figures), change_chart(label, figures)]
    if found["stops"] is not None:
        charts.append(halting_chart(label, found["stops"]))
    explanation = (
        f"Verdict: {found['verdict']}. Intervals of {confidence:.0%} are over windows of the text; a gain is measured "
        "window by window, and is positive where the steps need fewer bits. They say nothing of other seeds."
    )
    return {"id": f"agiformer-thinking-{number}", "title": f"What the thinking steps of {label} are worth",
            "explanation": explanation, "charts": [chart for chart in charts if chart is not None],
            "tables": [gains_table(figures)], "tiles": []}  # fmt: skip


def bits_chart(label: str, figures: Mapping[str, Figure]) -> Chart:
    """Draw bits per byte after each number of steps; models trained without steps are level lines."""
    own = _in_order(figures, after)
    series = [(label, 1, [_place(str(step), step, figure) for step, figure in enumerate(own)])]
    for number, (name, figure) in enumerate(_beginning(figures, WITHOUT).items(), start=2):
        ends = [_place("", step, figure) for step in sorted({0, max(len(own) - 1, 1)})]
        series.append((f"trained without steps, {name}", number, ends))
    svg = plane("Bits per byte after each number of steps", "thinking steps", "bits per byte", series)
    return {"title": "Bits per byte after each number of steps", "note": "bars: intervals", "svg": svg}


def change_chart(label: str, figures: Mapping[str, Figure]) -> Chart | None:
    """Draw by how much each step changes the distribution of the next byte; None: there are no steps."""
    own = _in_order(figures, lambda step: CHANGE.format(step + 1))
    if not own:
        return None
    places = [_place(str(step), step, figure) for step, figure in enumerate(own, start=1)]
    svg = plane("Change by each step", "thinking step", "bits per byte", [(label, 1, places)])
    note = "Kullback-Leibler divergence of the next byte's distribution from that before the step"
    return {"title": "Change by each step", "note": note, "svg": svg}


def halting_chart(label: str, stops: Sequence[float]) -> Chart:
    """Draw what share of bytes has a patch that stops after so many steps."""
    total, floor = sum(stops), HEIGHT - FOOT
    parts: list[Markup] = [tag("line", x1=LEFT, x2=LEFT + BAR * len(stops), y1=floor, y2=floor, class_="grid")]
    for steps, count in enumerate(stops):
        x, share = LEFT + BAR * steps, count / total
        top = floor - share * (floor - 20)
        hover = tag("title", f"{count:,.0f} of {total:,.0f} bytes stop after {steps} steps")
        parts.append(tag("rect", hover, x=x + 8, y=top, width=BAR - 16, height=floor - top, style=f"fill:{colour(1)}"))
        parts.append(tag("text", f"{share:.1%}", x=x + BAR / 2, y=top - 5, class_="tick mid"))
        parts.append(tag("text", str(steps), x=x + BAR / 2, y=floor + 16, class_="tick mid"))
    middle = LEFT + BAR * len(stops) / 2
    parts.append(tag("text", "thinking steps of the byte's patch", x=middle, y=floor + 34, class_="axis mid"))
    title = f"When {label} stops thinking"
    svg = drawing(2 * LEFT + BAR * len(stops), HEIGHT, parts, title)
    return {"title": title, "note": f"share of {total:,.0f} bytes", "svg": svg}


def gains_table(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Return the differences that the verdict rests on."""
    named = {"the same model without its steps": figures[GAIN]} if GAIN in figures else {}
    named |= _beginning(figures, GAIN_OVER)
    rows = [
        [name, f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]", f"{gain.n:,}"] for name, gain in named.items()
    ]
    caption = "The same model was never trained to be read without its steps, so only the controls are evidence."
    return {"headings": ["against", "gain in bits per byte", "bytes"], "rows": rows, "caption": caption}


def _in_order(figures: Mapping[str, Figure], name_of: Any) -> list[Figure]:
    found: list[Figure] = []
    while (name := name_of(len(found))) in figures:
        found.append(figures[name])
    return found


def _beginning(figures: Mapping[str, Figure], words: str) -> dict[str, Figure]:
    return {name.removeprefix(words): figure for name, figure in figures.items() if name.startswith(words)}


def _place(name: str, x: float, figure: Figure) -> PlanePoint:
    return PlanePoint(name, x, figure.value, figure.low, figure.high)
