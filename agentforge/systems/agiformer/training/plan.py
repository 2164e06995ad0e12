"""What a training of an AGIFORMER has beyond others: n-grams counted, bits logged, sparse gradients not clipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from agentforge.data.store import load_prepared
from agentforge.errors import UserError
from agentforge.recipe.schema import Recipe
from agentforge.systems.agiformer.checkpoint_types import is_agiformer
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.training.objective import ByteObjective
from agentforge.systems.agiformer.training.row_optimizer import RowMuGrokfast
from agentforge.trainers.supervised.additions import Additions, TrainingPlan


class AgiformerPlan(TrainingPlan):
    def __init__(self, prepared: Path) -> None:
        self._prepared = prepared
        self._optimizer: RowMuGrokfast | None = None

    def prepare(self, model: PreTrainedModel) -> Additions:
        if isinstance(model, AgiformerForCausalLM) and model.counted is not None:
            # On every process: each needs them, and counting the same rows gives the same. In the order of the sources:
            # `prepare` shuffles, and then every row would have its neighbours in the folds that it may see.
            rows = load_prepared(self._prepared)["train"]
            model.count(rows.select(np.argsort(rows["place"], kind="stable"))["input_ids"])
        return Additions(ByteObjective(model), on_optimizer=self._keep, before_clipping=self._set_aside)

    def _keep(self, optimizer: Any) -> None:
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        self._optimizer = inner if isinstance(inner, RowMuGrokfast) else None

    def _set_aside(self) -> None:
        if self._optimizer is not None:
            self._optimizer.set_aside()


def training_plan(recipe: Recipe, arguments: Any) -> AgiformerPlan | None:
    """Return the plan of a recipe whose model is an AGIFORMER; None for any other.

    Raises:
        UserError: the tables' optimiser for another model.
    """
    if is_agiformer(_config(recipe)):
        return AgiformerPlan(recipe.artifact("data"))
    if recipe.train.optimizer is not None and recipe.train.optimizer.name == "mugrokfast_rows":
        raise UserError("train.optimizer: mugrokfast_rows is for AGIFORMER's tables of n-grams; use mugrokfast")
    return None


def _config(recipe: Recipe) -> dict[str, Any]:
    if recipe.model.path is None:
        return recipe.model.config
    path = Path(recipe.model.path) / "config.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
