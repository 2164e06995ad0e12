"""Verbs before the training: what a recipe asks for, what it will cost, and its data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from agentforge.cli.app import (
    PASS_ON,
    Profile,
    RecipeName,
    Replace,
    app,
    done,
    load,
    overrides,
    show_table,
)
from agentforge.errors import UserError


@app.command(context_settings=PASS_ON)
def doctor(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="a path, SYSTEM or SYSTEM/NAME")] = None,
    profile: Profile = None,
) -> None:
    """Check what this machine lacks for a recipe. Each gap comes with the command that fixes it."""
    from agentforge.planning.doctor import diagnose
    from agentforge.planning.tables import checks_table

    command = " ".join([recipe or "RECIPE", *(["--profile", profile] if profile else []), *context.args])
    checks = diagnose(load(context, recipe, profile) if recipe else None, command)
    show_table(checks_table(checks))
    if any(check.state == "missing" for check in checks):
        raise typer.Exit(3)


@app.command(context_settings=PASS_ON)
def show(
    context: typer.Context,
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="leave it out to list the shipped recipes")
    ] = None,
    profile: Profile = None,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="print the schema of recipes, for editors")
    ] = False,
) -> None:
    """Print the resolved, validated recipe."""
    if json_schema:
        import json

        from agentforge.recipe.json_schema import recipe_json_schema

        typer.echo(json.dumps(recipe_json_schema(), indent=2))
    elif recipe is None:
        from agentforge.recipe.loading import recipe_names

        typer.echo("\n".join(recipe_names()))
    else:
        from agentforge.models.config_check import check_model
        from agentforge.recipe.loading import resolved_yaml

        loaded = load(context, recipe, profile)
        if loaded.model.config:
            check_model(loaded.model)
        typer.echo(resolved_yaml(loaded), nl=False)


@app.command(context_settings=PASS_ON)
def plan(context: typer.Context, recipe: RecipeName, profile: Profile = None) -> None:
    """Estimate memory, hours and dollars of each stage. Exit code 3 if over budget."""
    from agentforge.planning.pipeline_plan import check_pipeline_budget, is_pipeline, make_pipeline_plan
    from agentforge.planning.plan import check_budget, make_plan
    from agentforge.planning.tables import pipeline_table, plan_table

    loaded = load(context, recipe, profile)
    if is_pipeline(loaded):
        system = make_pipeline_plan(loaded, recipe, overrides(context), profile)
        show_table(pipeline_table(system))
        check_pipeline_budget(system)
        return
    planned = make_plan(loaded)
    show_table(plan_table(planned))
    check_budget(planned)


@app.command(context_settings=PASS_ON)
def download(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]")] = None,
    profile: Profile = None,
    list_: Annotated[bool, typer.Option("--list", help="list all registered data sets with licence and state")] = False,
) -> None:
    """Download the data sets and the base model of a recipe."""
    if list_:
        from agentforge.data.sources.dataset_cards import cards_table

        show_table(cards_table())
        return
    if recipe is None:
        raise UserError("name the RECIPE to download for, or use --list")
    loaded = load(context, recipe, profile)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"  # here the Hub's bars are the progress
    from agentforge.data.sources.download import download, report_table
    from agentforge.evaluation.benchmarks.download_benchmarks import download_benchmarks

    report = download(loaded)
    report.sources += download_benchmarks(loaded)
    show_table(report_table(report))


@app.command(context_settings=PASS_ON)
def prepare(context: typer.Context, recipe: RecipeName, profile: Profile = None, replace: Replace = False) -> None:
    """Clean, deduplicate, tokenise, split and mix the data."""
    loaded = load(context, recipe, profile)
    from agentforge.data.prepare import prepare
    from agentforge.data.prepare_table import summary_table

    made = prepare(loaded, replace=replace)
    show_table(summary_table(made))
    done(made)


@app.command(context_settings=PASS_ON)
def preview(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    rows: Annotated[int, typer.Option(min=1, help="rows per source")] = 1,
    html: Annotated[Path | None, typer.Option(help="write an HTML page instead of printing")] = None,
) -> None:
    """Show a few rows as the model will see them. Colours show what is trained and what is cut off."""
    loaded = load(context, recipe, profile)
    from agentforge.data.preview import preview_rows, render_terminal, write_html

    previews = preview_rows(loaded, rows)
    if html is None:
        show_table(render_terminal(previews))
    else:
        write_html(previews, html)
        done(html)


@app.command(context_settings=PASS_ON)
def collect(context: typer.Context, recipe: RecipeName, profile: Profile = None, replace: Replace = False) -> None:
    """Play episodes and save the good ones as training rows."""
    loaded = load(context, recipe, profile)
    from agentforge.rollouts.collect import collect

    done(collect(loaded, replace=replace))
