"""The command line: ``agentforge VERB RECIPE [key=value ...] [--profile NAME]``. Parse, call one function, print.

Each verb imports its stage itself, after it has read the recipe. So `--help`, `show`, `plan` and `doctor` start without
torch, and a typo is reported before seconds of imports.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agentforge.entry import Verbs, run_app
from agentforge.errors import UserError

PIPE_WIDTH = 160
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

app = typer.Typer(
    name="agentforge",
    cls=Verbs,
    help="Train agent language models from one recipe.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="a path, SYSTEM or SYSTEM/NAME")]
Profile = Annotated[str | None, typer.Option(help="a profile of the recipe; 'auto' picks one by the hardware found")]
Replace = Annotated[bool, typer.Option("--replace", help="overwrite an artefact that another recipe made")]
WhichModel = Annotated[str | None, typer.Option(help="base, lora, model, merged, q8, grafted, width-1of2 or a path")]


def load(context: typer.Context, name: str, profile: str | None) -> Any:
    """Return the recipe with the overrides of the command line."""
    from agentforge.environments.registry import check_options
    from agentforge.recipe.loading import load_recipe

    recipe = load_recipe(name, overrides(context), profile)
    check_options(recipe.environments)
    return recipe


def overrides(context: typer.Context) -> list[str]:
    """Return the rest of the command line as ``key=value`` strings."""
    from agentforge.recipe.overrides import parse_overrides

    options = [option for parameter in context.command.params for option in parameter.opts if option.startswith("--")]
    return parse_overrides(context.args, options)


def show_table(renderable: object) -> None:
    from rich.console import Console

    # a pipe or a log has no width of its own: wide enough that a row stays on its line
    Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(renderable)


def done(made: object) -> None:
    """Print the paths of the artefacts, one per line."""
    for path in made if isinstance(made, list) else [made]:
        typer.echo(str(path))


# -- before anything is spent ---------------------------------------------------------------------------------------


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


# -- data -----------------------------------------------------------------------------------------------------------


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


# -- models ---------------------------------------------------------------------------------------------------------


@app.command(context_settings=PASS_ON)
def surgery(context: typer.Context, recipe: RecipeName, profile: Profile = None, replace: Replace = False) -> None:
    """Graft, expand, slice or reorder a checkpoint, with proof. The proof is in the manifest."""
    loaded = load(context, recipe, profile)
    from agentforge.models.surgery import surgery

    done(surgery(loaded, replace=replace))


@app.command(context_settings=PASS_ON)
def train(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    replace: Replace = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="delete a stopped run's checkpoints and start over")
    ] = False,
) -> None:
    """Train; after a stop, run it again to resume from the newest complete checkpoint."""
    loaded = load(context, recipe, profile)
    from agentforge.trainers.train import train

    done(train(loaded, replace=replace, restart=restart))


@app.command(context_settings=PASS_ON)
def evaluate(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    model: WhichModel = None,
    replace: Replace = False,
) -> None:
    """Score one model, with intervals and chance levels."""
    loaded = load(context, recipe, profile)
    from agentforge.evaluation.compare.side_by_side import tables
    from agentforge.evaluation.evaluate import evaluate

    made = evaluate(loaded, model, replace=replace)
    for table in tables([made]):
        show_table(table)
    done(made)


@app.command(context_settings=PASS_ON)
def compare(
    context: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="RECIPE|DIRECTORY ...", help="in the order in which they were made")
    ],
    profile: Profile = None,
    rule: Annotated[
        str, typer.Option(help="rule of dominance: posterior, point, interval, affine_ci ...")
    ] = "posterior",
    rope: Annotated[float, typer.Option(min=0, max=1, help="ignore differences up to this size")] = 0.02,
    mixed_decoding: Annotated[
        bool, typer.Option("--mixed-decoding", help="also compare models that were decoded in different ways")
    ] = False,
) -> None:
    """Compare evaluated models side by side. Over environments, show which one dominates which."""
    from agentforge.evaluation.compare.side_by_side import find_evaluations, tables

    options = next((i for i, name in enumerate(names) if name.startswith("-")), len(names))  # as in --a.b value
    things = [name for name in names[:options] if "=" not in name]
    context.args = [name for name in names[:options] if "=" in name] + names[options:] + context.args
    for table in tables(find_evaluations(things, overrides(context), profile), rule, rope, mixed_decoding):
        show_table(table)


@app.command(context_settings=PASS_ON)
def report(context: typer.Context, recipe: RecipeName, profile: Profile = None) -> None:
    """Write an HTML report of what exists so far. It has curves, scores, frontier, episodes and cost."""
    from agentforge.evaluation.pipeline_artifacts import load_pipeline
    from agentforge.evaluation.report.page import report

    done(report(load_pipeline(recipe, overrides(context), profile)))


@app.command(context_settings=PASS_ON)
def merge(context: typer.Context, recipe: RecipeName, profile: Profile = None, replace: Replace = False) -> None:
    """Merge the adapter into the base. The result is checked against the unmerged model."""
    loaded = load(context, recipe, profile)
    from agentforge.export.merge import merge_stage

    done(merge_stage(loaded, replace=replace))


@app.command(context_settings=PASS_ON)
def gguf(context: typer.Context, recipe: RecipeName, profile: Profile = None, replace: Replace = False) -> None:
    """Make GGUF files. Each is checked against the checkpoint before it is published."""
    loaded = load(context, recipe, profile)
    from agentforge.export.gguf import gguf

    done(gguf(loaded, replace=replace))


# -- use ------------------------------------------------------------------------------------------------------------


@app.command(context_settings=PASS_ON)
def chat(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    model: WhichModel = None,
    prompt: Annotated[str | None, typer.Option(help="answer this prompt and exit; default: a conversation")] = None,
    examples: Annotated[int, typer.Option(min=0, help="answer this many held-out prompts and exit")] = 0,
    tools: Annotated[str, typer.Option(help="'show' tool calls, or run bash in the 'sandbox'")] = "show",
    files: Annotated[Path | None, typer.Option(help="directory to copy into the sandbox")] = None,
) -> None:
    """Chat with a checkpoint or a GGUF and its tools."""
    loaded = load(context, recipe, profile)
    from agentforge.serving.chat import chat

    chat(loaded, model, prompt=prompt, examples=examples, tools=tools, files=files)


@app.command(context_settings=PASS_ON)
def serve(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    model: WhichModel = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
) -> None:
    """Serve a model with an OpenAI-compatible API. Tool calls are parsed."""
    loaded = load(context, recipe, profile)
    from agentforge.serving.openai_server import serve

    serve(loaded, model, host=host, port=port)


@app.command("serve-env", context_settings=PASS_ON)
def serve_env(
    context: typer.Context,
    environment: Annotated[
        str, typer.Argument(metavar="ENVIRONMENT", help="id of the environment; give its options as key=value")
    ],
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 36001,
    max_sessions: Annotated[int, typer.Option(min=1, help="how many environments may be in use at once")] = 64,
    idle_seconds: Annotated[float, typer.Option(min=1, help="close an environment that is unused for so long")] = 1800,
) -> None:
    """Serve an environment over HTTP. It speaks AgentGym's and OpenEnv's protocols."""
    from agentforge.recipe.overrides import parse_override

    options = dict(parse_override(option) for option in overrides(context))
    from agentforge.serving.environment_server import serve

    serve(environment, options, host, port, max_sessions, idle_seconds)


@app.command(context_settings=PASS_ON)
def push(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    model: WhichModel = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be uploaded, and upload nothing")] = False,
) -> None:
    """Upload an artefact to the Hub with a model card."""
    loaded = load(context, recipe, profile)
    from agentforge.export.push import push, report

    show_table(report(push(loaded, model, dry_run=dry_run)))


@app.command(context_settings=PASS_ON)
def run(context: typer.Context, recipe: RecipeName, profile: Profile = None, replace: Replace = False) -> None:
    """Run all stages of a recipe. Stages that are up to date are skipped."""
    from agentforge import pipeline

    pipeline.run(recipe, overrides(context), profile, replace=replace, announce=announce)


def announce(title: str, made: object) -> None:
    if made is None:
        typer.secho(title, bold=True)
    else:
        done(made)


# -- entry ----------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong input, 3 refused by a check, 75 stopped."""
    run_app(app)
