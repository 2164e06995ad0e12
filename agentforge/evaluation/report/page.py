"""The stage `report`: one self-contained page for a system, from whatever has been made so far."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentforge import __version__
from agentforge.artifacts import read_manifest, stage_directory
from agentforge.evaluation.benchmarks.paired import page_groups as paired_groups
from agentforge.evaluation.own_scores import page_groups
from agentforge.evaluation.pipeline_artifacts import PipelineArtifacts, evaluations_of, find_artifacts
from agentforge.evaluation.report.page_diversity import diversity_groups
from agentforge.evaluation.report.page_losses import loss_groups
from agentforge.evaluation.report.page_scores import episode_groups, frontier_section, score_groups
from agentforge.evaluation.report.page_surgery import surgery_groups
from agentforge.evaluation.report.page_systems import shown_by_systems, system_groups
from agentforge.evaluation.report.page_training import metrics_file, training_section
from agentforge.evaluation.scores_file import read_scores
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.loading import resolved_yaml
from agentforge.recipe.schema import Recipe

PAGE = "report.html"
TEMPLATES = Path(__file__).parent / "templates"


def report(system: PipelineArtifacts) -> Path:
    """Write the page of a system.

    Returns:
        ``-report/report.html`` of its recipe; it is made again whenever an artefact has changed.
    """
    recipes = system.recipes
    made = [path for recipe in recipes for path in find_artifacts(recipe)]
    made += [path for shown in shown_by_systems(recipes) for path in shown.artifacts]
    # The log of a running training counts as an input, so the page is drawn again as it grows.
    running = [path for recipe in recipes if (path := metrics_file(recipe)).is_file()]
    inputs: dict[str, Path | str] = {str(path): path for path in (*made, *running)}
    depends = {"recipes": [resolved_yaml(recipe) for recipe in recipes], "version": __version__}
    target = system.recipe.artifact("report")
    with stage_directory(target, stage="report", recipe=depends, inputs=inputs, replace=True) as work:
        if not work.done:
            (work.path / PAGE).write_text(render(system), encoding="utf-8")
    return target / PAGE


def render(system: PipelineArtifacts) -> str:
    """Return the page as HTML; all that comes from recipes, models and environments is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    # StrictUndefined: a misspelt name in a template is an error instead of an empty cell.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    tables = environment.get_template("tables.html.j2").module
    style = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(tables=tables, style=style, **_content(system))


def _content(system: PipelineArtifacts) -> dict[str, Any]:
    # A section without content is left out of the page and of its table of contents alike.
    first, recipes = system.recipe, system.recipes
    evaluations = evaluations_of(recipes)
    made = [path for recipe in recipes for path in find_artifacts(recipe)]
    scores = [
        *score_groups(evaluations),
        *loss_groups(evaluations),
        *diversity_groups(evaluations),
        # a set of models has a section of its own already, which says more
        *page_groups([path for path in evaluations if "diversity" not in read_scores(path)]),
        *paired_groups(evaluations),
        *surgery_groups(made),
        *system_groups(shown_by_systems(recipes)),
    ]
    frontier = frontier_section(evaluations)
    trainings = [section for recipe in recipes if (section := training_section(recipe)) is not None]
    episodes = episode_groups(evaluations)
    cost, totals = _cost(recipes)
    sections = [
        *((group["id"], group["title"]) for group in scores),
        *([("frontier", "Frontier")] if frontier else []),
        *([("learning", "Learning curves")] if trainings else []),
        *([("episodes", "Episodes")] if episodes else []),
        ("cost", "What it cost"),
        ("recipe", "Recipe"),
    ]
    return {
        "title": first.name,
        "description": first.description,
        "version": first.version,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "agentforge": __version__,
        "tiles": [*(tile for group in scores for tile in group["tiles"]), *totals],
        "missing": system.missing,
        "contents": sections,
        "scores": scores,
        "frontier": frontier,
        "trainings": trainings,
        "episodes": episodes,
        "cost": cost,
        "recipes": [{"name": recipe.full_name, "yaml": resolved_yaml(recipe)} for recipe in recipes],
    }


def _cost(recipes: Sequence[Recipe]) -> tuple[dict[str, Any], list[dict[str, str]]]:
    rows, seconds, dollars = [], 0.0, 0.0
    for recipe in recipes:
        hardware = load_hardware(recipe.hardware)
        for path in find_artifacts(recipe):
            manifest = read_manifest(path)
            spent = float(manifest["seconds"])
            price = spent / 3600 * hardware.dollars_per_hour
            # A training counts its restarts; the manifest's time is that of the process that finished it.
            price = float(manifest["metrics"].get("dollars", price))
            seconds, dollars = seconds + spent, dollars + price
            rows.append([path.name, manifest["stage"], hardware.name, duration(spent), f"${price:,.2f}"])
    rows.append(["together", "", "", duration(seconds), f"${dollars:,.2f}"])
    table = {
        "headings": ["artefact", "stage", "hardware", "time", "dollars"],
        "rows": rows,
        "caption": "Wall time of the process that finished each artefact; a training counts all its restarts in its "
        "own metrics. Dollars: time x the hardware's price.",
    }
    tiles = [
        {"name": "Time", "value": duration(seconds), "note": f"{len(rows) - 1} artefacts"},
        {"name": "Cost", "value": f"${dollars:,.2f}", "note": f"on {load_hardware(recipes[0].hardware)}"},
    ]
    return table, tiles


def duration(seconds: float) -> str:
    """Return a time as a person would say it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
