"""The ablation on a report's page, and its pictures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from agentforge.evaluation.report.svg import alone
from agentforge.systems.cognate.ablation.drawing import curves_chart, exits_chart, scores_chart, steps_picture
from agentforge.systems.cognate.ablation.findings import Findings, read_findings
from agentforge.systems.cognate.ablation.summary import Answer
from agentforge.systems.cognate.ablation.tables import all_tables, markdown

STAGE = "cognate-ablation"
TABLES = "ablation.md"
COLOURS = ("grey", "blue", "orange", "green", "violet", "pink", "teal", "brown")


def page_groups(artifacts: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a section of the page for each finished ablation."""
    return [_group(number, read_findings(path)) for number, path in enumerate(artifacts)]


def _group(number: int, findings: Findings) -> dict[str, Any]:
    explanation = (
        f"Small synthetic tasks, {len(findings.seeds)} seeds for each arm, {findings.cpu_minutes:.0f} CPU-minutes. "
        f"Bars are {findings.confidence:.0%} Student-t intervals over seeds; the dotted line is chance, the "
        "dashed line the best strategy that does not solve the task."
    )
    tables = [
        {"headings": one.headings, "rows": one.rows, "caption": f"{one.title}. {one.caption}"}
        for one in all_tables(findings)
    ]
    charts = [{"title": title, "note": note, "svg": svg} for title, note, svg in pictures(findings)]
    title = f"Ablation: {findings.battery}"
    return {"id": f"cognate-ablation-{number}", "title": title, "explanation": explanation, "charts": charts,
            "tables": tables, "tiles": []}  # fmt: skip


def pictures(findings: Findings) -> list[tuple[str, str, Markup]]:
    """Return every picture: title, note, drawing."""
    drawn: list[tuple[str, str, Markup]] = []
    for answer in findings.answers:
        title = answer.question.title
        if answer.question.measure != "steps to target":
            drawn.append((title, answer.question.measure, scores_chart(answer)))
        drawn.append((f"{title}: accuracy over steps", _legend(answer), curves_chart(title, findings.curves[title])))
    for exits in findings.exits:
        drawn.append((f"Exits: {exits.arm}", "a point is a depth or a threshold", exits_chart(exits.arm, exits)))
    if findings.picture is not None:
        title, picture = "Steps of each token", findings.picture
        drawn.append((title, picture["note"], steps_picture(title, picture["rows"], picture["most"])))
    return drawn


def _legend(answer: Answer) -> str:
    named = enumerate((row.arm for row in answer.rows), start=1)
    return ", ".join(f"{name} ({COLOURS[number % len(COLOURS)]})" for number, name in named)


def write_tables_and_pictures(directory: Path, findings: Findings) -> None:
    """Write the tables as Markdown, and each picture as an SVG file that stands alone."""
    (directory / TABLES).write_text(markdown(findings), encoding="utf-8")
    for number, (title, _, drawing) in enumerate(pictures(findings), start=1):
        name = "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split()[:8])
        (directory / f"{number:02}-{name}.svg").write_text(alone(drawing), encoding="utf-8")
