"""Losses of a Cognate at exit thresholds: what thinking less costs, and what time and operations it saves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.evaluation.losses.decoding_speed import Decode
from agentforge.evaluation.losses.loss_results import FULL, NEVER
from agentforge.evaluation.losses.measure import Batch, LossReadings, Measured, Read, losses_of
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Losses
from agentforge.recipe.section import keys_of
from agentforge.systems.cognate.checkpoint_types import OWN_TYPE
from agentforge.systems.cognate.modeling.work import counted_work
from agentforge.systems.cognate.recipe_sections import CognateLoss


def loss_readings(model: Any, location: ModelLocation, settings: Losses) -> CognateReadings | None:
    """Return how a model is read at `evaluate.loss.exit_thresholds`; None: it is no Cognate and none is asked for.

    Raises:
        UserError: thresholds are asked for, and the model does not think in steps.
    """
    thresholds = sorted(set(keys_of(settings, CognateLoss).exit_thresholds), reverse=True)
    halts = model.config.model_type == OWN_TYPE and model.config.halts
    if thresholds and not halts:
        raise UserError(
            f"evaluate.loss.exit_thresholds: {location.label} does not decide how long it thinks; leave them out"
        )
    return CognateReadings(model, thresholds) if model.config.model_type == OWN_TYPE else None


class CognateReadings(LossReadings):
    """The model as it is configured; with all steps; and at each threshold.

    Args:
        model: a Cognate in evaluation mode.
        thresholds: cumulative halting probabilities at which a token stops, the highest first.
    """

    def __init__(self, model: Any, thresholds: Sequence[float] = ()) -> None:
        super().__init__(model)
        self.exit_thresholds = thresholds
        self.most_steps = model.config.max_recursions

    @property
    def ways(self) -> dict[str, float | None]:
        """What is read beside the model as it is configured: by name the threshold."""
        if not self.exit_thresholds:
            return {}
        return {NEVER: None, **{f"{threshold:g}": threshold for threshold in self.exit_thresholds}}

    def read(self, batch: Batch, measured: Measured) -> None:
        """Read a batch at every threshold, and as the model is configured."""
        best: Tensor | None = None
        for name, threshold in self.ways.items():
            read = measured.thresholds.get(name)
            if read is None:
                # Whatever is first pays for allocations and kernels, so the first batch is read once without the clock;
                # there the operations are counted, which takes longer than reading.
                read = measured.thresholds[name] = _empty(measured.rows)
                read.flops = self._count(batch, threshold)
            logits, steps, seconds = self._timed(batch, threshold)
            read.seconds += seconds
            best = logits.argmax(-1) if best is None else best
            assert read.agreeing is not None and read.steps is not None
            read.loss += measured.summed(batch, losses_of(logits, batch.targets))
            read.agreeing += measured.summed(batch, logits.argmax(-1) == best)
            read.steps += measured.summed(batch, steps)
            if threshold == self.model.config.exit_threshold:
                measured.add_width(FULL, batch, logits)  # it is the model as it is configured
        if not any(threshold == self.model.config.exit_threshold for threshold in self.ways.values()):
            super().read(batch, measured)

    def _timed(self, batch: Batch, threshold: float | None) -> tuple[Tensor, Tensor, float]:
        """Return logits `(N, V)` and steps `(N,)` of the counted tokens, and the seconds that the batch took."""
        started = time.perf_counter()
        out = self.model(**batch.inputs, exit_threshold=threshold)
        if out.logits.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        # A token's steps are those behind which the next one is predicted.
        return out.logits[:, :-1][batch.counted], out.halting_steps[:, :-1][batch.counted], seconds

    def _count(self, batch: Batch, threshold: float | None) -> float:
        with counted_work() as work:
            self.model(**batch.inputs, exit_threshold=threshold)
        return work.flops / float(batch.inputs["attention_mask"].sum())

    def steps(self, ids: Tensor) -> Tensor | None:
        """Return how long the model thinks about each token as it is configured; None: it does not decide."""
        if not self.model.config.halts or self.model.config.exit_threshold is None:
            return None
        found: Tensor = self.model(input_ids=ids, use_cache=False).halting_steps
        return found

    def decoders(self) -> dict[str, Decode]:
        """Return what continues a prompt as the model is configured, and at each threshold."""
        return super().decoders() | {f"threshold {name}": self._decoder(value) for name, value in self.ways.items()}

    def _decoder(self, threshold: float | None) -> Decode:
        def decode(ids: Tensor, new: int) -> Any:
            options: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
            mask = torch.ones_like(ids)
            return self.model.generate(ids, attention_mask=mask, exit_threshold=threshold, **options)

        return decode


def _empty(rows: int) -> Read:
    return Read(np.zeros(rows), np.zeros(rows), np.zeros(rows))
