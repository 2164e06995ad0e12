"""From which confidence on an exit may be believed: measured on held-out rows against full depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.evaluation.statistics.intervals import share_over_rows
from agentforge.systems.adamba.exits.depth import hidden_after
from agentforge.systems.adamba.exits.exits import (
    Confidence,
    Exit,
    ExitGate,
    check_exit,
    confidence_of,
)
from agentforge.systems.adamba.modeling.embedding_and_head import head

Array = np.ndarray[Any, np.dtype[Any]]

CANDIDATES = 200
LEVEL = 0.95


class Observed:
    """What every scored token showed: its row, and for each exit its confidence and whether it agrees."""

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = layers
        self.rows: list[Array] = []
        self.sure: dict[int, list[Array]] = {layer: [] for layer in layers}
        self.agrees: dict[int, list[Array]] = {layer: [] for layer in layers}

    def add(self, layer: int, sure: Tensor, agrees: Tensor) -> None:
        self.sure[layer].append(sure.double().cpu().numpy())
        self.agrees[layer].append(agrees.cpu().numpy())


def calibrate_exits(
    model: Any,
    batches: Iterable[Mapping[str, Tensor]],
    wanted: float,
    *,
    gates: Mapping[int, ExitGate] | None = None,
    layers: Sequence[int] | None = None,
    confidence: Confidence | None = None,
) -> dict[int, Exit]:
    """Return for each exit the smallest threshold that keeps the wanted agreement with full depth.

    A threshold holds if the lower end of the 95% Beta-Jeffreys interval of the agreement of the tokens that leave
    reaches ``wanted``. It is chosen on every other row and measured on the rows between. A token that has left at an
    earlier exit is not seen by the later ones. Agreement is that of the likeliest token.

    Args:
        model: an Adamba or FalconH1 at full depth and width, in evaluation mode.
        batches: ``input_ids`` `(B, T)`, and ``attention_mask`` and ``labels`` where there are any: with labels only the
            tokens that predict a label count, as in training.
        wanted: agreement in (0, 1).
        gates: learned gates by layer.
        layers: exits after so many layers; None: those of the gates, else of the config's ``exit_layers``.
        confidence: what is compared with the threshold; None: the gates, if there are any, else the softmax gap.

    Raises:
        UserError: there are no exits, one of them cannot be, or nothing to measure on.
    """
    gates = gates or {}
    layers = sorted(layers or gates or getattr(model.config, "exit_layers", None) or [])
    confidence = confidence or ("gate" if gates else "softmax_gap")
    if not layers:
        raise UserError("there are no exits to calibrate: train gates, or name the layers (exit_layers)")
    if not 0 < wanted < 1:
        raise UserError(f"the wanted agreement must be between 0 and 1, not {wanted}")
    for layer in layers:
        check_exit(model, layer, confidence, gates)
    observed = observe(model, batches, layers, confidence, gates)
    rows = np.concatenate(observed.rows) if observed.rows else np.zeros(0)
    if len(np.unique(rows)) < 2:
        raise UserError(
            "calibrating exits needs at least two held-out rows: half choose the threshold, the others measure it"
        )
    # Exits are calibrated in the order in which decoding meets them: a deeper exit sees only the tokens that earlier
    # exits let pass, and those are the harder ones.
    left = np.zeros(len(rows), bool)
    exits = {}
    for layer in layers:
        sure, agrees = (np.concatenate(values[layer]) for values in (observed.sure, observed.agrees))
        exits[layer] = _calibrate(rows, sure, agrees, ~left, wanted, confidence)
        threshold = exits[layer].threshold
        if threshold is not None:
            left |= sure >= threshold
    return exits


@torch.no_grad()
def observe(
    model: Any,
    batches: Iterable[Mapping[str, Tensor]],
    layers: Sequence[int],
    confidence: Confidence,
    gates: Mapping[int, ExitGate],
) -> Observed:
    """Run the whole model over the rows and note what each exit would have said."""
    observed = Observed(layers)
    rows = 0
    for batch in batches:
        ids = batch["input_ids"].to(model.device)
        mask = batch.get("attention_mask")
        with hidden_after(model, layers) as hidden:
            last = model.model(ids, attention_mask=None if mask is None else mask.to(ids.device), use_cache=False)
        counted = counted_tokens(batch).to(ids.device)
        full = head(model, last.last_hidden_state[:, :-1][counted]).argmax(-1)
        for layer in layers:
            normed = model.model.final_layernorm(hidden[layer][:, :-1][counted])
            logits = head(model, normed)
            observed.add(layer, confidence_of(confidence, normed, logits, gates.get(layer)), logits.argmax(-1) == full)
        observed.rows.append(rows + np.repeat(np.arange(len(ids)), counted.sum(1).cpu().numpy()))
        rows += len(ids)
    return observed


def counted_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """Return which of the first T-1 tokens predict something that counts: `(B, T - 1)` bool."""
    if batch.get("labels") is not None:
        return batch["labels"][:, 1:] != -100
    mask = batch.get("attention_mask")
    if mask is None:
        return torch.ones_like(batch["input_ids"][:, 1:], dtype=torch.bool)
    return (mask[:, 1:] * mask[:, :-1]).bool()


def _calibrate(rows: Array, sure: Array, agrees: Array, here: Array, wanted: float, confidence: Confidence) -> Exit:
    """Calibrate one exit on the tokens that come to it."""
    # The best of 200 candidate thresholds looks better than it is on the rows that selected it, so other rows measure
    # it.
    choosing, measuring = here & (rows % 2 == 0), here & (rows % 2 == 1)
    threshold = _smallest(rows[choosing], sure[choosing], agrees[choosing], wanted)
    if threshold is None:
        return Exit(None, None, wanted, 0, confidence=confidence)
    leaving = measuring & (sure >= threshold)
    tokens = int(leaving.sum())
    low, high = interval(rows[leaving], agrees[leaving])
    return Exit(
        threshold=threshold,
        agreement=float(agrees[leaving].mean()) if tokens else None,
        wanted=wanted,
        tokens=tokens,
        low=low,
        high=high,
        share=tokens / max(1, int(measuring.sum())),
        confidence=confidence,
    )


def _smallest(rows: Array, sure: Array, agrees: Array, wanted: float) -> float | None:
    """Return the smallest of the confidences that were seen at which the agreement is sure enough."""
    # Only confidences that were observed: between two of them the same tokens leave. They rise, so the first
    # threshold that holds is the one that lets most tokens leave.
    for threshold in np.unique(np.quantile(sure, np.linspace(0, 1, CANDIDATES), method="lower")) if len(sure) else ():
        leaving = sure >= threshold
        if interval(rows[leaving], agrees[leaving])[0] >= wanted:
            return float(threshold)
    return None


def interval(rows: Array, agrees: Array) -> tuple[float, float]:
    """Return the Beta-Jeffreys interval of a share of tokens, at 95%.

    Tokens of one row resemble each other: they count as `effective_trials` says, and once a row where all agree.

    Args:
        rows: (n,) of which row each token is.
        agrees: (n,) bool.
    """
    if not len(agrees):
        return 0.0, 1.0
    _, places = np.unique(rows, return_inverse=True)
    agreeing, tokens = np.bincount(places, agrees).astype(np.float64), np.bincount(places).astype(np.float64)
    _, low, high = share_over_rows(agreeing, tokens, LEVEL)
    return low, high
