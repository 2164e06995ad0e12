"""Evaluations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentforge.errors import UserError
from agentforge.evaluation.compare.comparison import (
    Comparison,
    check_rule,
    contenders,
    read_evaluations,
)
from agentforge.evaluation.compare.tables import dominance_tables, environment_table, relation
from agentforge.evaluation.losses.loss_results import LossEvaluation, all_of, measures, on_the_same_rows, read_losses
from agentforge.evaluation.own_scores import OwnGroup, cell, heading, own_groups
from agentforge.evaluation.pipeline_artifacts import evaluations_of, finished_evaluations, load_pipeline
from agentforge.evaluation.scores_file import SCORES, read_scores
from agentforge.evaluation.statistics.posterior import ROPE
from agentforge.recipe.schema import Recipe

if TYPE_CHECKING:
    from rich.table import Table


def tables(paths: Sequence[Path], rule: str | None = None, rope: float = ROPE) -> list[Table]:
    """Return what is to be shown of evaluations: tool calls, losses, environments, and who dominates whom.

    Args:
        rule: by which models are compared; None: only their scores are shown.
        rope: see `Comparison`.

    Raises:
        UserError: they cannot be compared, or there is no such rule.
    """
    made = []
    with_questions = [path for path in paths if "questions" in read_scores(path)]
    if with_questions:
        made.append(compare_table(with_questions))
    made += [loss_table(group) for group in on_the_same_rows(read_losses(paths))]
    made += [own_table(group) for group in own_groups(paths)]
    found = read_evaluations(paths)
    if found:
        made.append(environment_table(found))
    if rule is not None:
        check_rule(rule)
        if len(contenders(found)) > 1:
            made += dominance_tables(Comparison(contenders(found), rope), rule)
    return made


def find_evaluations(names: Sequence[str], overrides: Sequence[str] = (), profile: str | None = None) -> list[Path]:
    """Return the evaluations that names mean, in their order: directories of evaluations, and recipes.

    A recipe means all that is evaluated of it and of the recipes of its stages.

    Raises:
        UserError: nothing is given, or nothing is there.
    """
    if not names:
        raise UserError("compare needs a recipe or directories of evaluations")
    found: list[Path] = []
    for name in names:
        if (Path(name) / SCORES).is_file():
            found.append(Path(name))
        elif Path(name).is_dir():
            raise UserError(f"{name} is no evaluation: it has no {SCORES}")
        else:
            found += _of_system(load_pipeline(name, overrides, profile).recipes)
    return list(dict.fromkeys(found))


def _of_system(recipes: Sequence[Recipe]) -> list[Path]:
    return evaluations_of(recipes) or evaluations(recipes[0])  # the latter says that there are none


def evaluations(recipe: Recipe) -> list[Path]:
    """Return the recipe's finished evaluations: the base first, the others in the order they were made.

    Raises:
        UserError: there are none.
    """
    found = finished_evaluations(recipe)
    if not found:
        raise UserError(
            f"nothing of {recipe.full_name} is evaluated yet; run `agentforge evaluate` on this recipe first"
        )
    return found


def compare_table(paths: Sequence[Path]) -> Table:
    """Return a table with a column for each evaluation and a row for each score.

    Every cell has the value and its interval; from the second column on ▲ and ▼ mark an interval that does not overlap
    the first column's, ≈ one that does.

    Raises:
        UserError: they were not measured on the same questions, or with the same confidence.
    """
    from rich.table import Table

    reports = [read_scores(path) for path in paths]
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


def loss_table(evaluations: Sequence[LossEvaluation]) -> Table:
    """Return a table with a column for each model and a row for each width and exit; all on the same rows."""
    from rich.table import Table

    data, confidence = evaluations[0].report["data"], evaluations[0].report["confidence"]
    measured = [measures(one) for one in evaluations]
    timed = any("speed" in entry for own in measured for entry in own.values())
    table = Table(
        title=f"loss on {data['tokens']:,} tokens of {data['rows']:,} held-out rows, nats a token",
        caption=f"value [{confidence:.0%} interval over rows]" + ("; wall ms/token of decoding" if timed else ""),
    )
    table.add_column("")
    for one in evaluations:
        table.add_column(one.label, justify="right")
    for name in all_of([list(own) for own in measured]):
        table.add_row(name, *(_loss_cell(own.get(name)) for own in measured))
    return table


def own_table(group: OwnGroup) -> Table:
    """Return a table of what one of a system's evaluations found, with a column for each model."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=group.title, caption=f"value [{group.confidence:.0%} interval] (n)")
    table.add_column("")
    for label in group.labels:
        table.add_column(label, justify="right")
    for name, figures in group.rows.items():
        table.add_row(heading(name, figures), *(escape(cell(figure)) for figure in figures))
    return table


def _loss_cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    loss = entry["loss"]
    speed = f"; {entry['speed']['wall']:.2f} ms" if "speed" in entry else ""
    return f"{loss['value']:.3f} \\[{loss['low']:.3f}, {loss['high']:.3f}]{speed}"


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
