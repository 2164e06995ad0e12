"""Verbs before the training: what a recipe asks for, what it will cost, and its data."""

from __future__ import annotations

import os
import sys
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
    shows_colours,
    train_words,
)
from agentforge.errors import UserError


@app.command()
def init(
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="a file, a folder, or ORG/NAME of the Hub; for grpo an environment"),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="what to train: a directory, a Hub id, or 'scratch' for a small new model")
    ] = None,
    goal: Annotated[
        str | None, typer.Option(help="sft, dpo, kto, grpo or pretrain; default: what the data are made for")
    ] = None,
    name: Annotated[str, typer.Option(help="of the recipe, which becomes NAME.yaml")] = "my",
    hardware: Annotated[
        str | None, typer.Option(help="a file of configs/hardware; default: what this machine has")
    ] = None,
) -> None:
    """Write a recipe for your own data. Asks for what is missing, if there is a terminal."""
    from agentforge.planning.first_recipe.wishes import complete

    wishes = complete(data, base, goal, name, hardware, ask if sys.stdin.isatty() and sys.stdout.isatty() else None)
    from agentforge.data.preview import render_terminal
    from agentforge.planning.first_recipe.init import init as make

    made = make(wishes)
    typer.echo(made.found)
    if made.shown:
        show_table(render_terminal(made.shown, shows_colours()))
    done(made.path)
    typer.echo(f"Next: agentforge run {name}")


def ask(question: str, default: str | None) -> str:
    answer: str = typer.prompt(question, default=default)
    return answer


@app.command(context_settings=PASS_ON)
def doctor(
    context: typer.Context,
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="a path, SYSTEM or SYSTEM/NAME")] = None,
    profile: Profile = None,
    in_container: Annotated[
        bool, typer.Option("--in-container", help="also check the training image that this runs in")
    ] = False,
) -> None:
    """Check what this machine lacks for a recipe. Each gap comes with the command that fixes it."""
    from agentforge.planning.doctor import diagnose
    from agentforge.planning.tables import checks_table

    command = " ".join([recipe or "RECIPE", *(["--profile", profile] if profile else []), *context.args])
    checks = diagnose(load(context, recipe, profile) if recipe else None, command)
    if in_container:
        from agentforge.planning.container import diagnose_container

        checks += diagnose_container()
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
        from agentforge.planning.launch import launch_lines
        from agentforge.planning.limits.check import check_limits
        from agentforge.planning.train_defaults import explained
        from agentforge.recipe.loading import resolved_yaml
        from agentforge.recipe.stages import trains_itself

        loaded = load(context, recipe, profile)
        check_limits(loaded, unfinished=True)
        typer.echo(resolved_yaml(loaded), nl=False)
        if trains_itself(loaded):
            typer.echo(launch_lines(loaded, train_words(recipe, profile, context.args)), nl=False)
            typer.echo(explained(loaded), nl=False)


@app.command(context_settings=PASS_ON)
def plan(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="take twenty steps on this machine and plan with what they show")
    ] = False,
) -> None:
    """Estimate memory, hours and dollars of each stage. Exit code 3 if over budget."""
    from agentforge.planning.pipeline_plan import check_pipeline_budget, is_pipeline, make_pipeline_plan
    from agentforge.planning.plan import check_budget, make_plan
    from agentforge.planning.tables import pipeline_table, plan_table

    loaded = load(context, recipe, profile)
    if calibrate:
        if is_pipeline(loaded):
            stages = ", ".join(dict.fromkeys(s.recipe or recipe for s in loaded.stages if s.verb == "train"))
            raise UserError(f"--calibrate measures one training; name one of {stages}")
        from agentforge.planning.calibrate import calibrate as measure
        from agentforge.planning.tables import calibration_table

        found = measure(loaded)
        show_table(calibration_table(found))
        check_budget(found.plan)
        return
    if is_pipeline(loaded):
        system = make_pipeline_plan(loaded, recipe, overrides(context), profile)
        show_table(pipeline_table(system))
        check_pipeline_budget(system)
        return
    planned = make_plan(loaded)
    show_table(plan_table(planned, train_words(recipe, profile, context.args)))
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
    """Clean, deduplicate, tokenise, split and mix the data. Files of preferences are checked."""
    loaded = load(context, recipe, profile)
    from agentforge.planning.limits.check import check_limits

    check_limits(loaded, unfinished=True)
    if loaded.train.preferences and not loaded.data.mix:
        from agentforge.data.preference_rows import base_tokenizer, read_preferences

        found = read_preferences(loaded, base_tokenizer(loaded))
        typer.echo(
            f"{len(found.rows):,} rows can be trained on; `agentforge train` reads them itself: nothing to prepare"
        )
        return
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
    """Show a few rows as the model will see them. Colours or brackets show what is trained and what is cut off."""
    loaded = load(context, recipe, profile)
    from agentforge.data.preview import preview_rows, render_terminal, write_html

    previews = preview_rows(loaded, rows)
    if html is None:
        show_table(render_terminal(previews, shows_colours()))
    else:
        write_html(previews, html)
        done(html)


@app.command(context_settings=PASS_ON)
def collect(context: typer.Context, recipe: RecipeName, profile: Profile = None, replace: Replace = False) -> None:
    """Play episodes and save the good ones as training rows."""
    loaded = load(context, recipe, profile)
    from agentforge.rollouts.collect import collect

    done(collect(loaded, replace=replace))
