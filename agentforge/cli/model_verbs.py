"""Verbs that make and judge models."""

from __future__ import annotations

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
    train_words,
)


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
    node_rank: Annotated[int | None, typer.Option(min=0, help="with several nodes: which one this is, from 0")] = None,
    rendezvous: Annotated[str | None, typer.Option(help="with several nodes: HOST:PORT of the first of them")] = None,
) -> None:
    """Train, one process a GPU; after a stop, run it again to go on."""
    loaded = load(context, recipe, profile)
    from agentforge.launching import is_ours
    from agentforge.trainers.start import start_processes

    options = [*(["--replace"] if replace else []), *(["--restart"] if restart else [])]
    words = train_words(recipe, profile, [*options, *context.args])
    code = start_processes(loaded, words, node_rank, rendezvous)
    if code:
        raise typer.Exit(code)
    if code is None:
        from agentforge.trainers.train import train

        made = train(loaded, replace=replace, restart=restart)
    if not is_ours():  # else our launcher says it, once
        done(loaded.trained if code == 0 else made)


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
