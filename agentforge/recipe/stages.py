"""The stages of a recipe that lists none: what its method needs, and its evaluations before and after."""

from __future__ import annotations

import os
from collections.abc import Iterator

from agentforge.recipe.methods import METHODS
from agentforge.recipe.schema import Recipe, Stage

OF_ONE_MODEL = {"diversity", "confidence", "batch_size"}
"""Keys of `evaluate` that ask nothing of a single model."""


def stages_of(recipe: Recipe) -> list[Stage]:
    """Return the stages that `run` goes through: those of the recipe, or, where it lists none, the usual ones.

    These are: download (if something is not a file here), prepare or collect, evaluate the base, train, merge an
    adapter, evaluate what came out. A recipe with `surgery` has no usual stages: there are none.
    """
    if recipe.stages or recipe.surgery is not None:
        return list(recipe.stages)
    return list(_usual(recipe))


def trains_itself(recipe: Recipe) -> bool:
    """Tell whether the recipe's own `train` section is what a training reads, not that of another recipe."""
    if recipe.surgery is not None:
        return False
    return not recipe.stages or any(stage.verb == "train" and stage.recipe is None for stage in recipe.stages)


def _usual(recipe: Recipe) -> Iterator[Stage]:
    if not _is_here(recipe):
        yield Stage(verb="download")
    reads, train = METHODS[recipe.train.method].reads, recipe.train
    if recipe.data.mix and (METHODS[train.method].supervised or recipe.evaluate.loss or recipe.evaluate.answers):
        yield Stage(verb="prepare")
    if reads == "pairs" and not (train.preferences or train.episodes):
        yield Stage(verb="collect")
    evaluates = any(value is not None for key, value in recipe.evaluate.__dict__.items() if key not in OF_ONE_MODEL)
    if evaluates and recipe.model.path is not None:
        yield Stage(verb="evaluate", model="base")
    yield Stage(verb="train")
    if train.lora is not None:
        yield Stage(verb="merge")
    if evaluates:
        yield Stage(verb="evaluate", model="model" if train.lora is None else "merged")


def _is_here(recipe: Recipe) -> bool:
    """Tell whether all that the recipe reads are files of this machine."""
    read = [source.dataset for source in (*recipe.data.mix, *recipe.train.preferences)]
    read += recipe.data.decontaminate.against
    read += [name for name in (recipe.model.path, recipe.model.tokenizer) if isinstance(name, str)]
    return all("*" in name or os.path.exists(name) for name in read) and recipe.evaluate.benchmarks is None
