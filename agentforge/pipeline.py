"""The stages of a recipe in order. Each stage function lives in its subject's folder; this file only orders them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from agentforge.environments.registry import check_options
from agentforge.errors import UserError
from agentforge.recipe.loading import load_recipe, load_stages
from agentforge.recipe.schema import Recipe, Stage
from agentforge.references import Reference, resolve

log = logging.getLogger(__name__)

Made = Path | list[Path] | None


# Verb to the function of its stage. Imported when the stage runs: each brings its own libraries, and most recipes need
# only some of them.
STAGES: dict[str, Reference] = {
    "download": "agentforge.data.sources.download:download",
    "prepare": "agentforge.data.prepare:prepare",
    "surgery": "agentforge.models.surgery:surgery",
    "collect": "agentforge.rollouts.collect:collect",
    "train": "agentforge.trainers.train:train",
    "evaluate": "agentforge.evaluation.evaluate:evaluate",
    "merge": "agentforge.export.merge:merge_stage",
    "gguf": "agentforge.export.gguf:gguf",
}


def run_stage(stage: Stage, recipe: Recipe, *, replace: bool) -> Made:
    """Run one stage of the recipe that it reads, and return what it made."""
    function = resolve(STAGES[stage.verb])
    if stage.verb == "download":
        from agentforge.evaluation.benchmarks.download_benchmarks import download_benchmarks

        function(recipe)
        download_benchmarks(recipe)
        return None  # its files are in the Hub's cache, and no artefact of the recipe
    if stage.verb == "evaluate":
        made: Made = function(recipe, stage.model, replace=replace)
        return made
    made = function(recipe, replace=replace)
    return made


def report(recipe: Recipe, planned: Sequence[tuple[Stage, Recipe]]) -> Made:
    """Write the page about all the stages; it alone needs to know them."""
    from agentforge.evaluation.pipeline_artifacts import PipelineArtifacts
    from agentforge.evaluation.report.page import report

    return report(PipelineArtifacts(recipe, planned))


def run(
    name: str,
    overrides: Sequence[str] = (),
    profile: str | None = None,
    *,
    replace: bool = False,
    announce: Callable[[str, Made], None] = lambda title, made: None,
) -> None:
    """Run every stage that a recipe declares; a stage whose artefact is up to date returns at once.

    Args:
        name: the recipe; its stages may read other recipes, with the same profile and overrides.
        announce: called with the stage's title and None before it runs, and with what it made afterwards.

    Raises:
        UserError: the recipe declares no stages, or one is wrong. All recipes are read before the first stage runs.
    """
    recipe = load_recipe(name, overrides, profile)
    if not recipe.stages:
        raise UserError(
            f"{name} declares no stages; add `stages:` to it, or run a verb such as `agentforge train {name}`"
        )
    planned = load_stages(recipe, overrides, profile)
    for _, stage_recipe in planned:  # the third stage's mistake shall not cost the hours of the first two
        check_options(stage_recipe.environments)
    for number, (stage, stage_recipe) in enumerate(planned, start=1):
        of = " ".join(word for word in (stage.verb, stage.recipe or name, stage.model) if word)
        title = f"[{number}/{len(planned)}] {of}"
        announce(title, None)
        reports = stage.verb == "report"
        made = report(recipe, planned) if reports else run_stage(stage, stage_recipe, replace=replace)
        # None means "about to run", so a stage that makes no artefact ends with an empty list.
        announce(title, made or [])
