"""The stages of a recipe in order. Each stage function lives in its subject's folder; this file only orders them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from agentforge.environments.registry import check_options
from agentforge.errors import UserError
from agentforge.planning.limits.check import check_limits
from agentforge.recipe.loading import Options, load_recipe, load_stages
from agentforge.recipe.schema import Recipe, Stage
from agentforge.recipe.stages import stages_of
from agentforge.references import Reference, resolve
from agentforge.trainers.start import start_processes

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


def _trained_by_processes(recipe: Recipe, words: Sequence[str]) -> bool:
    """Train with one process on each device, if the recipe asks for several; False: it is to be trained here."""
    code = start_processes(recipe, ["train", *words])
    if code:  # they have said why
        raise SystemExit(code)
    return code == 0


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
    """Run every stage of a recipe; a stage whose artefact is up to date returns at once.

    A recipe that declares none has the usual ones: see `stages_of`.

    Args:
        name: the recipe; its stages may read other recipes, with the same profile and overrides.
        announce: called with the stage's title and None before it runs, and with what it made afterwards.

    Raises:
        UserError: the recipe has no stages, or one is wrong. All recipes are read before the first stage runs.
    """
    recipe = load_recipe(name, overrides, profile)
    recipe = recipe.model_copy(update={"stages": stages_of(recipe)})
    if not recipe.stages:
        raise UserError(f"{name} has `surgery` and declares no stages; add `stages:` to it, or run single verbs")
    planned = load_stages(recipe, overrides, profile)
    for stage, stage_recipe in planned:  # the third stage's mistake shall not cost the hours of the first two
        check_options(stage_recipe.environments)
        check_limits(stage_recipe, unfinished=stage.verb != "train")
    options = Options(profile, tuple(overrides))
    for number, (stage, stage_recipe) in enumerate(planned, start=1):
        of = " ".join(word for word in (stage.verb, stage.recipe or name, stage.model) if word)
        title = f"[{number}/{len(planned)}] {of}"
        announce(title, None)
        if stage.verb == "report":
            made = report(recipe, planned)
        elif stage.verb == "train" and _trained_by_processes(
            stage_recipe, [stage.recipe or name, *(["--replace"] if replace else []), *options.words(stage)]
        ):
            made = stage_recipe.trained
        else:
            made = run_stage(stage, stage_recipe, replace=replace)
        # None means "about to run", so a stage that makes no artefact ends with an empty list.
        announce(title, made or [])
