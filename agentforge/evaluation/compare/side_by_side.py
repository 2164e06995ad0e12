"""Evaluations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentforge.data.preview import CONTROL_PICTURES
from agentforge.errors import UserError
from agentforge.evaluation.answers import Answered, read_answers
from agentforge.evaluation.benchmarks.paired import EXPLANATION, HEADINGS, TITLE, Paired, paired_metrics
from agentforge.evaluation.benchmarks.paired import cells as paired_cells
from agentforge.evaluation.comparable import decoding_rows, refuse_mixed
from agentforge.evaluation.compare.comparison import (
    Comparison,
    check_rule,
    contenders,
    labels,
    read_evaluations,
)
from agentforge.evaluation.compare.tables import (
    cells,
    coverage_note,
    dominance_tables,
    environment_table,
    side_by_side,
)
from agentforge.evaluation.losses.loss_results import LossEvaluation, all_of, measures, on_the_same_rows, read_losses
from agentforge.evaluation.own_scores import OwnGroup, cell, heading, own_groups
from agentforge.evaluation.pipeline_artifacts import evaluations_of, finished_evaluations, load_pipeline
from agentforge.evaluation.scores_file import SCORES, read_scores
from agentforge.evaluation.statistics.posterior import ROPE
from agentforge.recipe.schema import Recipe

if TYPE_CHECKING:
    from rich.table import Table

EXCERPT = 300
"""Characters of a prompt or an answer that a table shows."""


def tables(paths: Sequence[Path], rule: str | None = None, rope: float = ROPE, mixed: bool = False) -> list[Table]:
    """Return what is to be shown of evaluations: tool calls, losses, environments, and who dominates whom.

    Args:
        rule: by which models are compared; None: only their scores are shown.
        rope: see `Comparison`.
        mixed: let models pass that were decoded in different ways.

    Raises:
        UserError: they cannot be compared, or there is no such rule.
    """
    made = []
    with_questions = [path for path in paths if "questions" in read_scores(path)]
    if with_questions:
        made.append(compare_table(with_questions, mixed))
    made += [loss_table(group) for group in on_the_same_rows(read_losses(paths))]
    made += [answers_table(group) for group in read_answers(paths)]
    made += [own_table(group) for group in own_groups(paths)]
    if pairs := paired_metrics(paths):
        made.append(paired_table(pairs))
    found = read_evaluations(paths, mixed)
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
            raise UserError(f"{name} is not an evaluation: it has no {SCORES}")
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


def compare_table(paths: Sequence[Path], mixed: bool = False) -> Table:
    """Return a table with a column for each evaluation and a row for each score.

    Every cell has the value and its interval; from the second column on ▲ and ▼ mark an interval that does not overlap
    the first column's, ≈ one that does.

    Args:
        mixed: let models pass that were decoded in different ways.

    Raises:
        UserError: they were not measured on the same questions, with the same confidence, or in the same way.
    """
    reports = [read_scores(path) for path in paths]
    first = reports[0]
    check_questions(paths, reports, mixed)
    confidence, questions = first["interval"]["confidence"], first["questions"]
    table = side_by_side(
        f"{first['recipe']}: {questions['n']} tool calls in {questions['conversations']} held-out conversations",
        f"value [{confidence:.0%} {first['interval']['kind']} interval]",
        coverage_note(questions["n"], confidence),
        ("score", "chance"),
        labels(reports),
    )
    for name, baseline in first["scores"].items():
        chance = "" if baseline["chance"] is None else f"{baseline['chance']:.1%}"
        table.add_row(name.replace("_", " "), chance, *cells([report["scores"][name] for report in reports]))
    for title, shown in decoding_rows([report["decoding"] for report in reports]):
        table.add_row(title, "", *shown)
    table.add_row("tokens/s", "", *(f"{report['tokens_per_second']:,.0f}" for report in reports))
    table.add_row("seconds", "", *(f"{report['seconds']:,.1f}" for report in reports))
    return table


def check_questions(paths: Sequence[Path], reports: Sequence[dict[str, Any]], mixed: bool = False) -> None:
    """Refuse scores of tool calls that do not belong side by side.

    Args:
        reports: scores.json of each of the ``paths``.
        mixed: let models pass that were decoded in different ways.

    Raises:
        UserError: other questions, another confidence, or another way of decoding.
    """
    first = reports[0]
    for path, report in zip(paths, reports, strict=True):
        other_questions = report["questions"]["hash"] != first["questions"]["hash"]
        if other_questions or report["interval"] != first["interval"]:
            what = "questions" if other_questions else "intervals"
            raise UserError(
                f"{path.name} and {paths[0].name} were made with different {what}; evaluate both again, with --replace"
            )
    if not mixed:
        refuse_mixed([path.name for path in paths], [report["decoding"] for report in reports])


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


def answers_table(answered: Answered) -> Table:
    """Return a table of held-out rows: each prompt, what the data say, and what each model wrote."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{len(answered.rows)} held-out prompts, answered greedily", show_header=False)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for prompt, expected, answers in answered.rows:
        table.add_row("prompt", Text(shown_text(prompt, from_end=True), "bold"))
        table.add_row("in the data", Text(shown_text(expected)))
        for label, answer in zip(answered.labels, answers, strict=True):
            table.add_row(label, Text(shown_text(answer), "green"))
        table.add_section()
    return table


def shown_text(text: str, *, from_end: bool = False) -> str:
    """Return an excerpt of what a model read or wrote, that a terminal shows and does not obey."""
    visible = text.translate(CONTROL_PICTURES).strip()
    if len(visible) <= EXCERPT:
        return visible
    return f"... {visible[-EXCERPT:]}" if from_end else f"{visible[:EXCERPT]} ..."


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


def paired_table(pairs: Sequence[Paired]) -> Table:
    """Return a table of how much better models are than the first, on the same benchmark rows."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=TITLE, caption=EXPLANATION.format(confidence=pairs[0].confidence))
    for title in HEADINGS:
        table.add_column(title)
    for pair in pairs:
        for line in paired_cells(pair):
            table.add_row(*map(escape, line))
    return table


def _loss_cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    loss = entry["loss"]
    speed = f"; {entry['speed']['wall']:.2f} ms" if "speed" in entry else ""
    return f"{loss['value']:.3f} \\[{loss['low']:.3f}, {loss['high']:.3f}]{speed}"
