"""Evaluations side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentforge.artifacts import read_manifest
from agentforge.errors import UserError
from agentforge.recipe.schema import Recipe

if TYPE_CHECKING:
    from rich.table import Table

SCORES = "scores.json"


def evaluations(recipe: Recipe) -> list[Path]:
    """Return the recipe's finished evaluations: the base first, the others in the order they were made.

    Raises:
        UserError: there are none.
    """
    found = [
        path for path in recipe.artifact("x").parent.glob(f"{recipe.full_name}-eval-*") if (path / SCORES).is_file()
    ]
    if not found:
        raise UserError(
            f"nothing of {recipe.full_name} is evaluated yet; run `agentforge evaluate` on this recipe first"
        )
    base = recipe.artifact("eval-base")
    return sorted(found, key=lambda path: (path != base, str(read_manifest(path)["finished"]), path.name))


def compare_table(paths: Sequence[Path]) -> Table:
    """Return a table with a column for each evaluation and a row for each score.

    Every cell has the value and its interval; from the second column on ▲ and ▼ mark an interval that does not overlap
    the first column's, ≈ one that does.

    Raises:
        UserError: they were not measured on the same questions, or with the same confidence.
    """
    from rich.table import Table

    reports = [_read(path) for path in paths]
    first = reports[0]
    _check_comparable(paths, reports)
    percent = f"{first['interval']['confidence']:.0%}"
    questions = first["questions"]
    table = Table(
        title=f"{first['recipe']}: {questions['n']} tool calls in {questions['conversations']} held-out conversations",
        caption=f"value [{percent} {first['interval']['kind']} interval]"
        + ("; ▲ ▼ apart from the first column, ≈ overlapping" if len(paths) > 1 else ""),
    )
    table.add_column("score")
    table.add_column("chance", justify="right")
    for report in reports:
        table.add_column(report["model"]["label"], justify="right")
    for name, baseline in first["scores"].items():
        chance = "" if baseline["chance"] is None else f"{baseline['chance']:.1%}"
        cells = [_cell(report["scores"][name], baseline if i else None) for i, report in enumerate(reports)]
        table.add_row(name.replace("_", " "), chance, *cells)
    table.add_row("tokens/s", "", *(f"{report['tokens_per_second']:,.0f}" for report in reports))
    table.add_row("seconds", "", *(f"{report['seconds']:,.1f}" for report in reports))
    return table


def relation(score: dict[str, Any], baseline: dict[str, Any]) -> str:
    """Return ``above``, ``below`` or ``overlaps``: where an interval lies to another."""
    if score["low"] > baseline["high"]:
        return "above"
    return "below" if score["high"] < baseline["low"] else "overlaps"


def _cell(score: dict[str, Any], baseline: dict[str, Any] | None) -> str:
    mark = "" if baseline is None else {"above": " ▲", "below": " ▼", "overlaps": " ≈"}[relation(score, baseline)]
    return f"{score['value']:.1%} \\[{score['low']:.1%}, {score['high']:.1%}]{mark}"


def _check_comparable(paths: Sequence[Path], reports: Sequence[dict[str, Any]]) -> None:
    first = reports[0]
    for path, report in zip(paths, reports, strict=True):
        for key, what in (("questions", "questions"), ("interval", "intervals"), ("decoding", "decoding settings")):
            mine, theirs = report[key], first[key]
            if (mine["hash"] != theirs["hash"]) if key == "questions" else (mine != theirs):
                raise UserError(
                    f"{path.name} and {paths[0].name} were made with different {what}; evaluate both again, "
                    "with --replace"
                )


def _read(path: Path) -> dict[str, Any]:
    if not (path / SCORES).is_file():
        raise UserError(f"{path} is no evaluation: it has no {SCORES}")
    loaded: dict[str, Any] = json.loads((path / SCORES).read_text(encoding="utf-8"))
    return loaded
