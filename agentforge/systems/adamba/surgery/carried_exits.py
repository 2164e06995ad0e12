"""What becomes of a model's exits (`exits.py`) when the model is operated on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentforge.systems.adamba.exits.exits import EXITS, GATES, ExitGate, load_gates, save_gates


def carry_exits(
    source: Path, target: Path, old: Any, new: Any, *, same: bool, channels: Tensor | None = None
) -> str | None:
    """Take the exit gates of a model along to what surgery made of it, as far as they fit.

    Args:
        source: directory of the old model.
        target: of the new one.
        old: config of the old model.
        new: config of the new one.
        same: the new model computes what the old one does, so that the calibration holds.
        channels: for each channel of the new model, the old one that it was; None: they are where they were.

    Returns:
        a sentence on what was left out; None if nothing was.
    """
    calibrated = (source / EXITS).is_file()
    gates = load_gates(source)
    # A gate weighs every channel of the exit. Cut some off and it no longer says what it was trained to say.
    if new.hidden_size < old.hidden_size:
        if not (gates or calibrated):
            return None
        return f"the exits were left out: they belong to all {old.hidden_size} channels; train and calibrate them again"
    kept = {layer: _fitted(gate, old, new, channels) for layer, gate in gates.items() if layer < new.num_hidden_layers}
    if kept:
        save_gates(target, kept)
    if calibrated and same:
        shutil.copyfile(source / EXITS, target / EXITS)
    if gone := sorted(set(gates) - set(kept)):
        return f"{GATES}: the gates after layers {', '.join(map(str, gone))} were left out, the model ends before them"
    return (
        f"{EXITS} was left out: it was calibrated on another model; calibrate again"
        if calibrated and not same
        else None
    )


def _fitted(gate: ExitGate, old: Any, new: Any, channels: Tensor | None) -> ExitGate:
    """Return the gate for the new channels: it reads the final norm's output, which a wider model makes larger."""
    weight = gate.hidden.weight if channels is None else gate.hidden.weight[:, channels]
    # The new channels are zero at the exit, so the gate's new weights (zero as well) do not matter yet.
    fitted = ExitGate(new.hidden_size)
    with torch.no_grad():
        fitted.hidden.weight[:, : old.hidden_size] = weight * (new.lm_head_multiplier / old.lm_head_multiplier)
        fitted.hidden.bias.copy_(gate.hidden.bias)
        fitted.distribution.weight.copy_(gate.distribution.weight)
    return fitted
