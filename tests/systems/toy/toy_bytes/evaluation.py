"""Bits a byte on the eval rows."""

from __future__ import annotations

import math

import numpy as np
import torch

from agentforge.artifacts import Workspace
from agentforge.data.store import load_prepared
from agentforge.evaluation.own_scores import Figure, Scores
from agentforge.evaluation.statistics.intervals import ratio_t
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Recipe
from agentforge.recipe.section import keys_of
from agentforge.rollouts.policies.transformers_policy import load_weights
from toy_bytes import ToyEvaluate


@torch.no_grad()
def evaluate_bits(recipe: Recipe, location: ModelLocation, work: Workspace) -> Scores:
    asked = keys_of(recipe.evaluate, ToyEvaluate).bits
    assert asked is not None
    rows = load_prepared(recipe.artifact("data"))["eval"][: asked.rows]["input_ids"]
    model = load_weights(location).float()
    sums = [float(model(ids, labels=ids).loss) * (ids.shape[1] - 1) for ids in (torch.tensor([row]) for row in rows)]
    counts = np.array([len(row) - 1 for row in rows], dtype=float)
    value, low, high = (float(x) / math.log(2) for x in ratio_t(np.array(sums), counts, recipe.evaluate.confidence))
    figure = Figure(value, low, high, int(counts.sum()), chance=8.0, unit="bits a byte")
    measured_on = f"{recipe.artifact('data').name}, {len(rows)} rows"
    return Scores("bits a byte on held-out rows", measured_on, recipe.evaluate.confidence, {"bits": figure})
