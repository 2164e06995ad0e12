"""Losses of an Adamba beside the whole model's: of the narrower models inside it, and of its early exits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.evaluation.losses.decoding_speed import Decode
from agentforge.evaluation.losses.loss_results import FULL
from agentforge.evaluation.losses.measure import Batch, LossReadings, Measured, Read, losses_of
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Losses
from agentforge.recipe.section import keys_of
from agentforge.systems.adamba.checkpoint_types import OWN_TYPE, PLAIN_TYPE
from agentforge.systems.adamba.exits.depth import hidden_after
from agentforge.systems.adamba.exits.exits import Exits, confidence_of, exits_of, load_exits
from agentforge.systems.adamba.generation import generate
from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.recipe_sections import AdambaLoss
from agentforge.systems.adamba.widths.router import parameters
from agentforge.systems.adamba.widths.submodels import parse_width, submodel

log = logging.getLogger(__name__)


def loss_readings(model: Any, location: ModelLocation, settings: Losses) -> AdambaReadings | None:
    """Return how a model is read at `evaluate.loss.widths` and `.exits`; None: it is no FalconH1 and none is asked for.

    Raises:
        UserError: widths are asked for, and the model has none inside.
    """
    asked = keys_of(settings, AdambaLoss)
    shares = sorted({parse_width(width) for width in asked.widths}, reverse=True)
    if model.config.model_type not in (PLAIN_TYPE, OWN_TYPE):
        if shares != [1]:
            raise UserError(
                f"evaluate.loss.widths: a {model.config.model_type} has no narrower models inside; set this to ['1']"
            )
        log.info("%s has no early exits; its loss is measured at full depth only", location.label)
        return None
    layers, calibrated = _exits(model, location) if asked.exits else ([], None)
    return AdambaReadings(model, [str(share) for share in shares], layers, calibrated)


def _exits(model: Any, location: ModelLocation) -> tuple[list[int], Exits | None]:
    """Return the layers that are measured, and what is calibrated for them."""
    calibrated = load_exits(Path(location.path)) if location.kind == "hf" else None
    if calibrated is not None and calibrated.calibrated:
        calibrated = exits_of(model)  # which checks them
    layers = set(getattr(model.config, "exit_layers", None) or ()) | set(calibrated.calibrated if calibrated else ())
    if not layers:
        log.info("%s has no early exits; its loss is measured at full depth only", location.label)
    return sorted(layers), calibrated


class AdambaReadings(LossReadings):
    """The whole model, narrower widths, exits alone, and calibrated exits together."""

    def __init__(
        self, model: Any, widths: Sequence[str] = (FULL,), exits: Sequence[int] = (), calibrated: Exits | None = None
    ) -> None:
        """Say what is read.

        Args:
            model: an Adamba or FalconH1 in evaluation mode.
            widths: shares of the model's width; ``"1"`` is the model itself.
            exits: layers after which the head reads.
            calibrated: thresholds of exits, and their gates.
        """
        super().__init__(model)
        self.widths, self.exits = widths, sorted(exits)
        self.calibrated = calibrated.calibrated if calibrated else {}
        self.gates = calibrated.gates if calibrated else {}
        entries = sorted(self.calibrated.items())
        self.thresholds = {layer: exit.threshold for layer, exit in entries if exit.threshold is not None}

    def read(self, batch: Batch, measured: Measured) -> None:
        """Read a batch in every way, with one pass of the whole model for full depth and all exits."""
        if self.exits:
            self._read_exits(batch, measured)
        elif FULL in self.widths:
            super().read(batch, measured)
        for width in self.widths:
            if width != FULL:
                logits = submodel(self.model, width)(**batch.inputs).logits
                measured.add_width(width, batch, logits[:, :-1][batch.counted])

    def _read_exits(self, batch: Batch, measured: Measured) -> None:
        """Add each exit's losses; and, together, those of every token at the calibrated exit where it would leave."""
        model = self.model
        with hidden_after(model, self.exits) as hidden:
            last = model.model(**batch.inputs).last_hidden_state
        full = head(model, last[:, :-1][batch.counted])
        if FULL in self.widths:
            measured.add_width(FULL, batch, full)
        best = full.argmax(-1)
        together = losses_of(full, batch.targets)
        agrees = torch.ones_like(best, dtype=torch.bool)
        staying = torch.ones_like(best, dtype=torch.bool)
        for layer in self.exits:
            normed = model.model.final_layernorm(hidden[layer][:, :-1][batch.counted])
            logits = head(model, normed)
            losses, agreeing = losses_of(logits, batch.targets), logits.argmax(-1) == best
            _add(measured.exits.setdefault(layer, _empty(measured)), measured, batch, losses, agreeing)
            if layer in self.thresholds:
                sure = confidence_of(self.calibrated[layer].confidence, normed, logits, self.gates.get(layer))
                leaving = staying & (sure >= self.thresholds[layer])
                together, agrees = torch.where(leaving, losses, together), torch.where(leaving, agreeing, agrees)
                _leave(measured, layer, leaving)
                staying &= ~leaving
        if self.thresholds:
            _leave(measured, model.config.num_hidden_layers, staying)
            measured.together = measured.together or _empty(measured)
            _add(measured.together, measured, batch, together, agrees)

    def parameters(self, width: str) -> int:
        """Return how many parameters compute at a width."""
        return parameters(submodel(self.model, width) if width != FULL else self.model)

    def decoders(self) -> dict[str, Decode]:
        """Return what continues a prompt at each width, and with the calibrated exits."""
        ways: dict[str, Decode] = {width: self._decoder(width=width) for width in self.widths}
        return ways | ({"exits": self._decoder(exit_threshold="calibrated")} if self.thresholds else {})

    def _decoder(self, **way: Any) -> Decode:
        def decode(ids: Tensor, new: int) -> Any:
            options: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
            return generate(self.model, ids, attention_mask=torch.ones_like(ids), **options, **way)

        return decode


def _empty(measured: Measured) -> Read:
    return Read(np.zeros(measured.rows), np.zeros(measured.rows))


def _leave(measured: Measured, layer: int, leaving: Tensor) -> None:
    measured.left[layer] = measured.left.get(layer, 0) + int(leaving.sum())


def _add(read: Read, measured: Measured, batch: Batch, losses: Tensor, agreeing: Tensor) -> None:
    assert read.agreeing is not None
    read.loss += measured.summed(batch, losses)
    read.agreeing += measured.summed(batch, agreeing)
