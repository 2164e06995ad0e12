"""What `evaluate` does with `evaluate.diversity`: do the models of a set differ more than seeds alone make them?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentforge.artifacts import Workspace, read_manifest, stage_directory, write_json
from agentforge.data.store import load_prepared
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation.diversity.behaviour import Behaviour, behaviour_of
from agentforge.evaluation.diversity.measure import measure_sets
from agentforge.evaluation.losses.decoding_speed import CONTEXT, prompt_speeds
from agentforge.evaluation.losses.measure import HeldOut, held_out
from agentforge.evaluation.own_scores import OWN, Figure, Scores
from agentforge.evaluation.scores_file import SCORES
from agentforge.evaluation.statistics import diversity as statistics
from agentforge.evaluation.statistics.bootstrap import row_weights
from agentforge.evaluation.statistics.diversity import Finding, SetSums
from agentforge.evaluation.statistics.intervals import Array
from agentforge.models.locate_model import ModelLocation, locate_path, model_inputs
from agentforge.recipe.schema import Diversity, Recipe
from agentforge.rollouts.policies.transformers_policy import load_weights

log = logging.getLogger(__name__)

NAME = "diversity"
MODELS, CONTROL = "models", "control"
PROMPTS = 8
"""Prompts that decoding is timed on: more than a loss's table takes, because these are what is resampled."""


def evaluate_diversity(recipe: Recipe, replace: bool = False) -> Path:
    """Compare the models of `evaluate.diversity`, and write ``-eval-diversity``.

    Raises:
        UserError: a model is not there, or is a GGUF.
        CheckRefused: the models have different tokenizers.
    """
    asked = _asked(recipe)
    data = recipe.artifact("data")
    read_manifest(data)  # says how it is made
    sets = {MODELS: _located(asked.models), CONTROL: _located(asked.control)}
    inputs: dict[str, Path | str] = {"data": data}
    for kind, locations in sets.items():
        for location in locations:
            inputs |= {f"{kind} {location.label} {name}": place for name, place in model_inputs(location).items()}
    depends = {"diversity": asked.model_dump(), "confidence": recipe.evaluate.confidence, "seed": recipe.seed}
    target = recipe.artifact(f"eval-{NAME}")
    with stage_directory(target, stage="evaluate", recipe=depends, inputs=inputs, replace=replace) as work:
        if not work.done:
            _compare(recipe, {kind: locations for kind, locations in sets.items() if locations}, work)
    return target


def _asked(recipe: Recipe) -> Diversity:
    assert recipe.evaluate.diversity is not None
    return recipe.evaluate.diversity


def _located(models: Mapping[str, str]) -> list[ModelLocation]:
    located = [locate_path(path, label) for label, path in models.items()]
    for location in located:
        if location.kind == "gguf":
            raise UserError(
                f"evaluate.diversity reads checkpoints and adapters; {location.path} is a GGUF: name the checkpoint "
                "that it was made from"
            )
    return located


def _opened(location: ModelLocation) -> Behaviour:
    model: Any = load_weights(location, spread=False)
    if location.kind == "adapter":
        model = model.merge_and_unload()
    # In float32 on a CPU, as losses are measured: bfloat16 would round away what is compared here.
    model = (model if torch.cuda.is_available() else model.float()).eval().requires_grad_(False)
    return behaviour_of(model)


def _compare(recipe: Recipe, located: Mapping[str, Sequence[ModelLocation]], work: Workspace) -> None:
    asked, confidence = _asked(recipe), recipe.evaluate.confidence
    tokenizer = load_tokenizer(recipe.artifact("data") / "tokenizer")
    rows = held_out(load_prepared(recipe.artifact("data"))["eval"], asked.rows, tokenizer)
    for location in (one for locations in located.values() for one in locations):
        _refuse_other_tokenizer(location, tokenizer)
    sets = {kind: [_opened(location) for location in locations] for kind, locations in located.items()}
    sums = measure_sets(sets, rows, batch_size=recipe.evaluate.batch_size)
    weights = row_weights(len(rows.ids), recipe.seed)
    measures = {kind: statistics.set_measures(found, weights) for kind, found in sums.items()}
    found = statistics.findings(measures[MODELS], measures.get(CONTROL), len(rows.ids), confidence)
    seconds = _latencies(sets, rows) if asked.speed else {}
    found |= _latency_findings(seconds, recipe.seed, confidence)
    labels = {kind: [location.label for location in locations] for kind, locations in located.items()}
    report = {
        "data": {"path": str(recipe.artifact("data")), "rows": len(rows.ids), "hash": rows.hash,
                 "tokens": int(rows.tokens.sum())},
        "confidence": confidence,
        "findings": {name: asdict(one) for name, one in found.items()},
        "models": {kind: _each_model(labels[kind], sums[kind], seconds.get(kind), weights, confidence)
                   for kind in sums},
        "pairs": {kind: _each_pair(labels[kind], sums[kind], weights, confidence) for kind in sums},
        "units": {name: unit for models in sets.values() for name, unit in models[0].units.items()},
    }  # fmt: skip
    shown = {"label": NAME, "kind": "set", "path": None, "base": None}
    scores = asdict(_scores(found, report))
    write_json(work.path / SCORES, {"recipe": recipe.full_name, "model": shown, OWN: {NAME: scores}, NAME: report})
    work.metrics.update({f"{NAME}/{name}": one.models.value for name, one in found.items()})


def _refuse_other_tokenizer(location: ModelLocation, tokenizer: Any) -> None:
    """Refuse a model whose own tokenizer gives tokens other numbers; one without a tokenizer is taken at its word."""
    if not (Path(location.path) / "tokenizer_config.json").is_file():
        return
    if load_tokenizer(Path(location.path)).get_vocab() != tokenizer.get_vocab():
        raise CheckRefused(
            f"evaluate.diversity: {location.path} has another tokenizer than the recipe's data; only models with one "
            "tokenizer can be compared token by token"
        )


def _latencies(sets: Mapping[str, Sequence[Behaviour]], rows: HeldOut) -> dict[str, Array]:
    """Return (prompts, models) wall milliseconds a token for each set; all models take turns on every prompt."""
    prompts = [row[:CONTEXT] for row in sorted(rows.ids, key=len, reverse=True)[:PROMPTS]]
    ways = {f"{kind} {place}": one.decoder() for kind, models in sets.items() for place, one in enumerate(models)}
    device = next(iter(sets.values()))[0].model.device
    speeds = prompt_speeds(prompts, ways, device)
    return {
        kind: np.array([[speed.wall for speed in speeds[f"{kind} {place}"]] for place in range(len(models))]).T
        for kind, models in sets.items()
    }


def _latency_findings(seconds: Mapping[str, Array], seed: int, confidence: float) -> dict[str, Finding]:
    if not seconds or len(seconds[MODELS]) < 2:
        return {}
    weights = row_weights(len(seconds[MODELS]), seed)
    ratios = {kind: {"latency_ratio": statistics.latency_ratio(each, weights)} for kind, each in seconds.items()}
    return statistics.findings(ratios[MODELS], ratios.get(CONTROL), len(seconds[MODELS]), confidence)


def _each_model(
    labels: Sequence[str], sums: SetSums, seconds: Array | None, weights: Array, confidence: float
) -> dict[str, dict[str, Any]]:
    """Return what each model does, by its label: accuracy, the means of its quantities, latency."""
    rows = len(sums.tokens)
    each = {"accuracy": statistics.accuracies(sums, weights), **statistics.means(sums, weights)}
    found: dict[str, dict[str, Any]] = {
        label: {name: asdict(statistics.estimate(values[:, place], rows, confidence)) for name, values in each.items()}
        for place, label in enumerate(labels)
    }
    if seconds is not None:
        for place, label in enumerate(labels):
            found[label]["latency"] = {"value": float(seconds[:, place].mean())}
    return found


def _each_pair(labels: Sequence[str], sums: SetSums, weights: Array, confidence: float) -> list[dict[str, Any]]:
    each = statistics.pair_measures(sums, weights)
    return [
        {"pair": [labels[one], labels[other]]}
        | {
            name: asdict(statistics.estimate(values[:, place], len(sums.tokens), confidence))
            for name, values in each.items()
        }
        for place, (one, other) in enumerate(statistics.pairs(len(labels)))
    ]


def _scores(found: Mapping[str, Finding], report: Mapping[str, Any]) -> Scores:
    """Return the measures as figures, with what seeds alone give as the level of chance."""
    data = report["data"]
    figures = {
        name: Figure(
            **asdict(one.models),
            n=PROMPTS if name == "latency_ratio" else data["tokens"],
            chance=None if one.control is None else one.control.value,
        )
        for name, one in found.items()
    }
    measured_on = f"{Path(data['path']).name}, {data['rows']} rows, {data['hash'][:8]}"
    return Scores("diversity; chance is what seeds alone give", measured_on, report["confidence"], figures)
