"""A recipe, the recipes of its stages, and which of their artefacts exist by now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.evaluation.scores_file import SCORES
from agentforge.models.locate_model import label_of
from agentforge.recipe.loading import load_recipe, load_stages
from agentforge.recipe.schema import Recipe, Stage


@dataclass(frozen=True)
class PipelineArtifacts:
    """A recipe with its stages.

    Attributes:
        recipe: the one that lists the stages.
        stages: each with the recipe it reads.
    """

    recipe: Recipe
    stages: Sequence[tuple[Stage, Recipe]]

    @property
    def recipes(self) -> list[Recipe]:
        """The recipe and those of its stages, each once."""
        everyone = [self.recipe, *(recipe for _, recipe in self.stages)]
        # Several stages may read the same recipe; its artefacts are listed once.
        return list({(one.output_dir, one.full_name): one for one in everyone}.values())

    @property
    def missing(self) -> list[str]:
        """A line for each artefact that a stage should make and has not made yet."""
        return [
            f"{path.name}: agentforge {stage.verb} {stage.recipe or recipe.name}"
            for stage, recipe in self.stages
            for path in _makes(stage, recipe)
            if not (path / MANIFEST).is_file()
        ]


def load_pipeline(name: str, overrides: Sequence[str] = (), profile: str | None = None) -> PipelineArtifacts:
    """Read a recipe and those of its stages.

    Raises:
        UserError: one of them is wrong.
    """
    recipe = load_recipe(name, overrides, profile)
    return PipelineArtifacts(recipe, load_stages(recipe, overrides, profile))


def _makes(stage: Stage, recipe: Recipe) -> list[Path]:
    if stage.verb == "evaluate" and stage.model is not None:
        return [recipe.artifact(f"eval-{label_of(stage.model)}")]
    if stage.verb == "evaluate" and recipe.evaluate.diversity is not None:
        return [recipe.artifact("eval-diversity")]
    if stage.verb in ("train", "surgery"):
        return [recipe.trained if stage.verb == "train" else recipe.operated]
    # Only verbs that leave an artefact of this recipe: `download` fills a cache, and `report` is the page itself.
    made: dict[str, list[str]] = {
        "collect": ["episodes"],
        "prepare": ["data"],
        "merge": ["merged"],
        "gguf": [*recipe.export.gguf],
    }
    return [recipe.artifact(suffix) for suffix in made.get(stage.verb, [])]


def find_artifacts(recipe: Recipe) -> list[Path]:
    """Return a recipe's finished artefacts except its report, in the order they were made."""
    made = recipe.artifact("x").parent.glob(f"{recipe.full_name}-*")
    found = [path for path in made if (path / MANIFEST).is_file() and path != recipe.artifact("report")]
    return sorted(found, key=lambda path: (str(read_manifest(path)["finished"]), path.name))


def finished_evaluations(recipe: Recipe) -> list[Path]:
    """Return a recipe's evaluations: the base first, the others in the order they were made."""
    found = [path for path in find_artifacts(recipe) if (path / SCORES).is_file()]
    # The sort is stable, so all but the base keep their order; the others are measured against the base.
    return sorted(found, key=lambda path: path != recipe.artifact("eval-base"))


def evaluations_of(recipes: Sequence[Recipe]) -> list[Path]:
    """Return the finished evaluations of several recipes."""
    return [path for recipe in recipes for path in finished_evaluations(recipe)]
