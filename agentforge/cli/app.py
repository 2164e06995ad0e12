"""The application, and what all verbs share: options, reading the recipe, printing."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from agentforge import __version__
from agentforge.entry import Verbs

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


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agentforge {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="show the version and exit")
    ] = False,
) -> None:
    """Train agent language models from one recipe."""


RECIPE_HELP = "a path, SYSTEM or SYSTEM/NAME; paths in a recipe are relative to the current directory"
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)]
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


def train_words(name: str, profile: str | None, more: list[str]) -> list[str]:
    """Return the words of a command that trains a recipe."""
    return ["train", name, *(["--profile", profile] if profile else []), *more]


def show_table(renderable: object) -> None:
    from rich.console import Console

    # a pipe or a log has no width of its own: wide enough that a row stays on its line
    Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH).print(renderable)


def shows_colours() -> bool:
    """Tell whether what `show_table` prints has colours."""
    from rich.console import Console

    console = Console()
    return console.color_system is not None and not console.no_color


def done(made: object) -> None:
    """Print the paths of the artefacts, one per line."""
    for path in made if isinstance(made, list) else [made]:
        typer.echo(str(path))
