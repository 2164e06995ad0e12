"""Verbs that use models: talk to them, serve them, publish them; and `run`, which runs all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentforge.cli.app import (
    PASS_ON,
    Profile,
    RecipeName,
    Replace,
    WhichModel,
    app,
    done,
    load,
    overrides,
    show_table,
)
from agentforge.errors import UserError


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
def generate(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    model: WhichModel = None,
    prompt: Annotated[str, typer.Option(help="the text to go on with; it is read as it is")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="how many to write; of a byte-level model, bytes")] = 200,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token")] = 0.8,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="draw from the likeliest tokens of this mass")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="draw from this many likeliest tokens; 0: from all")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="of the draws")] = 0,
) -> None:
    """Continue a text. For models without a chat template."""
    loaded = load(context, recipe, profile)
    from agentforge.serving.generate import Sampler, generate

    generate(loaded, model, prompt, Sampler(tokens, temperature, top_p, top_k, seed))


@app.command(context_settings=PASS_ON)
def serve(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    model: WhichModel = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8080,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="AGENTFORGE_API_KEY",
            show_default=False,
            help="what clients must send",
        ),
    ] = None,
) -> None:
    """Serve a model with an OpenAI-compatible API. Tool calls are parsed."""
    loaded = load(context, recipe, profile)
    from agentforge.serving.openai_server import serve

    serve(loaded, model, host=host, port=port, api_key=api_key)


@app.command(context_settings=PASS_ON)
def deploy(
    context: typer.Context,
    recipe: RecipeName,
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIRECTORY", help="where the files go", show_default=False)
    ] = None,
    profile: Profile = None,
    host: Annotated[str, typer.Option(help="where the servers listen")] = "127.0.0.1",
) -> None:
    """Write files that train and serve a recipe elsewhere. For SkyPilot, Docker, Ollama, llama-server and vLLM."""
    if directory is None or "=" in directory.name:
        raise UserError(f"name the directory that the files go to, as in `agentforge deploy {recipe} deploy`")
    from agentforge.export.deploy import deploy

    made = deploy(recipe, directory, overrides(context), profile, host)
    for file in made.files:
        done(directory / file)
    for reason in dict.fromkeys(made.refused.values()):
        files = ", ".join(file for file, why in made.refused.items() if why == reason)
        typer.echo(f"no {files}: {reason}", err=True)


@app.command(context_settings=PASS_ON)
def launch(
    context: typer.Context,
    recipe: RecipeName,
    profile: Profile = None,
    on_demand: Annotated[
        bool, typer.Option("--on-demand", help="rent machines that are not taken away; default: spot, with recovery")
    ] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="queue it on a Slurm cluster instead of renting")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the task and its price, and start nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Run a recipe's stages on a rented machine. With SkyPilot, or on a cluster. Says the price first."""
    from agentforge.export.launch import prepare_launch, start

    ready = prepare_launch(recipe, overrides(context), profile, spot=not on_demand, slurm=slurm)
    typer.echo(ready.price, err=True)
    if dry_run:
        typer.echo(ready.text, nl=False)
        return
    if not yes and not typer.confirm(f"Start it with `{' '.join(ready.command)}`?", err=True):
        raise typer.Exit(3)
    start(ready)


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


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="an artefact, such as runs/aj/...-merged")],
) -> None:
    """Check every byte of an artefact and of what it was made from. The manifests say what they should be."""
    from agentforge.verification import refuse_problems, verified_table
    from agentforge.verification import verify as verify_artifact

    found = verify_artifact(directory)
    show_table(verified_table(found))
    refuse_problems(found)


@app.command(context_settings=PASS_ON)
def run(context: typer.Context, recipe: RecipeName, profile: Profile = None, replace: Replace = False) -> None:
    """Run all stages of a recipe. Stages that are up to date are skipped."""
    from agentforge import pipeline

    pipeline.run(recipe, overrides(context), profile, replace=replace, announce=announce)
    loaded = load(context, recipe, profile)
    if not loaded.stages:  # the usual ones, with evaluations before and after the training
        from agentforge.evaluation.compare.side_by_side import tables
        from agentforge.evaluation.pipeline_artifacts import finished_evaluations

        for table in tables(finished_evaluations(loaded)):
            show_table(table)


def announce(title: str, made: object) -> None:
    if made is None:
        typer.secho(title, bold=True)
    else:
        done(made)
