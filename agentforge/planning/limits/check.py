"""The one checker of a recipe's limits. It reads the recipe and the base's config, never weights, and needs no torch
for the architectures that have a table.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

from agentforge.data.sources.adapters import get_adapter
from agentforge.data.sources.evaluation_parts import refuse_evaluation_part
from agentforge.data.sources.source_files import SwitchedOff, refuse_disabled, registered
from agentforge.data.tokenizer import NO_TOKENIZER
from agentforge.data.tools import load_tools
from agentforge.environments.registry import check_options
from agentforge.errors import UserError
from agentforge.installation import find_paths
from agentforge.planning.limits.adapters import adapter_problems
from agentforge.planning.limits.batches import batch_problems
from agentforge.planning.limits.config_values import value_problems
from agentforge.planning.limits.lengths import length_problems
from agentforge.planning.parameters import inventory_of
from agentforge.planning.shapes import UnknownBase, config_of, shape_from_config
from agentforge.recipe.arguments import argument_problems
from agentforge.recipe.combinations import combination_problems
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.methods import METHODS
from agentforge.recipe.name_patterns import matching
from agentforge.recipe.schema import Recipe, Source

# `train.args.report_to` to the packages of which one must be there. Kubeflow is a service: it has none.
TRACKERS: dict[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "azure_ml": ("azureml",),
    "flyte": ("flytekit",),
}


def check_limits(recipe: Recipe, *, unfinished: bool = False) -> None:
    """Refuse what the training stage could not do, or would do otherwise than the recipe says.

    Args:
        unfinished: it need not name a base, as those that others extend, and those of data alone, do not.

    Raises:
        UserError: everything that is wrong, a line each.
    """
    if problems := list(dict.fromkeys(limit_problems(recipe, unfinished=unfinished))):
        raise UserError("\n".join(problems))


def limit_problems(recipe: Recipe, *, unfinished: bool = False) -> list[str]:
    """Return a sentence for everything that is wrong; see `check_limits`.

    What cannot be told yet is no problem: of a base that is not on this machine, the names and sizes.
    """
    found = [text for _, text in argument_problems(recipe) or combination_problems(recipe)]
    found += [*_said(check_options, recipe.environments), *_sources(recipe), *_trackers(recipe), *_hardware(recipe)]
    if unfinished and recipe.model.path is None and not recipe.model.config:
        return found
    found += _needed(recipe)
    try:
        config = config_of(recipe)
    except UnknownBase:
        return found
    except UserError as error:
        return [*found, str(error)]
    where = "model.config." if recipe.model.path is None else f"config of {recipe.model.path}: "
    if wrong := [*value_problems(config, where)] or _said(shape_from_config, config):
        return [*found, *wrong]
    # Names are compared only in a recipe that is right otherwise: a pattern that is none cannot be.
    return found or list(_of_the_base(recipe, config))


def _of_the_base(recipe: Recipe, config: dict[str, Any]) -> Iterator[str]:
    yield from length_problems(recipe, config)
    shape = shape_from_config(config)
    if recipe.train.lora is not None:
        yield from adapter_problems(shape, recipe.train.lora)
    elif recipe.train.trainable:
        names = [parameter.name for parameter in inventory_of(shape).parameters]
        yield from _said(matching, names, recipe.train.trainable)


def _needed(recipe: Recipe) -> Iterator[str]:
    """Yield what a method cannot do without."""
    method = recipe.train.method
    spec = METHODS[method]
    if not spec.supervised and recipe.model.path is None:
        knows = "knows the actions" if spec.plays else "has played"
        yield f"train.method {method} needs model.path: a model that already {knows}"
    from_scratch = recipe.model.path is None and bool(recipe.model.config)
    if from_scratch and recipe.train.lora is not None:
        yield "train.lora adapts a base, and a model from scratch is stored nowhere without it; set model.path"
    prepared = recipe.data.prepared is not None or recipe.artifact("data").is_dir()  # with a tokenizer
    if from_scratch and recipe.data.mix and recipe.model.tokenizer is None and not prepared:
        yield NO_TOKENIZER
    if spec.plays and not recipe.environments:
        yield f"train.method {method} needs `environments`, the ones to play"
    if method == "grpo" and recipe.train.args.get("max_steps", -1) <= 0:
        yield "train.method grpo needs train.args.max_steps: tasks do not run out, so the run needs a number of steps"


def _sources(recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with the lines of the mix and of the preferences, whether their files are here or not."""
    lines = [*(("data.mix", s) for s in recipe.data.mix), *(("train.preferences", s) for s in recipe.train.preferences)]
    for key, source in lines:
        said = _said(_check_source, source, recipe)
        yield from (text if text.startswith(key) else f"{key}: {text}" for text in said)
    yield from _questions_trained_on(recipe)
    if recipe.data.tools is not None:
        yield from _said(load_tools, recipe.data.tools)


def _questions_trained_on(recipe: Recipe) -> Iterator[str]:
    """Yield the files of `evaluate.tool_calls` that a line of the mix reads too."""
    if recipe.evaluate.tool_calls is None:
        return
    asked = {path.resolve() for path in find_paths(recipe.evaluate.tool_calls.prompts)}
    for source in recipe.data.mix:
        if source.held_out or source.enabled:
            continue
        for name in find_paths(source.dataset):
            if name.resolve() in asked:
                yield f"data.mix: {name} is read by evaluate.tool_calls.prompts, so it is not trained on; leave out one"


def _check_source(source: Source, recipe: Recipe) -> None:
    if source.adapter is not None:
        get_adapter(source.adapter)
    if (card := registered(source)) is not None:
        try:
            refuse_disabled(card, source)
        except SwitchedOff:
            return  # `prepare` goes on without it where `data.allow_missing` says so
        if card.files:
            card.globs(source.split)
    refuse_evaluation_part(source, recipe.data)


def _trackers(recipe: Recipe) -> Iterator[str]:
    given = recipe.train.args.get("report_to") or []
    for name in [given] if isinstance(given, str) else given:
        packages = TRACKERS.get(name, ())
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            yield (
                f"train.args.report_to names {name}, but its package is not installed: run "
                f"`pip install {packages[0]}`, or leave it out (metrics.jsonl is always written)"
            )


def _hardware(recipe: Recipe) -> Iterator[str]:
    hardware = load_hardware(recipe.hardware)
    if recipe.model.quantize is not None and not hardware.gpus:
        yield (
            f"model.quantize: {recipe.model.quantize} needs a CUDA GPU, and the recipe's hardware is "
            f"{hardware.name}; leave it out, or choose a profile with a GPU"
        )
    # A launcher says how many processes there are; before that it is one for each device.
    yield from batch_problems(recipe, int(os.environ.get("WORLD_SIZE", hardware.devices)))


def _said(function: Callable[..., Any], *arguments: Any) -> list[str]:
    """Return what a function refuses, or nothing."""
    try:
        function(*arguments)
    except UserError as error:
        return str(error).splitlines()
    return []
