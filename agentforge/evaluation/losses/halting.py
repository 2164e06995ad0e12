"""Models that decide token by token how long they think: what each threshold costs in loss and saves in time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from agentforge.evaluation.losses.loss_results import NEVER, WORTH, interval
from agentforge.evaluation.losses.measure import HeldOut, LossReadings, Measured
from agentforge.evaluation.statistics.intervals import share_over_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PICTURED = 240
"""Tokens of the picture: as many as fit on a page that is still looked at."""


def threshold_report(
    measured: Measured, rows: HeldOut, confidence: float
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return what was measured at each threshold, and the threshold that saves most at an unchanged loss.

    Args:
        measured: with thresholds, or without.
        rows: that were read.
        confidence: of the intervals.

    Returns:
        by threshold, `NEVER` first: loss, steps, wall time and FLOPs a token, and against `NEVER` regret and agreement;
        and of the thresholds whose loss is higher by less than `WORTH` with all of its interval, the fastest to read:
        its name and the share of wall time and of steps that it saves. None: none saves any.
    """
    tokens, total = rows.tokens, int(rows.tokens.sum())
    found: dict[str, Any] = {}
    for name, read in measured.thresholds.items():
        assert read.steps is not None and read.agreeing is not None
        found[name] = {
            "loss": interval(read.loss, tokens, confidence),
            "steps": interval(read.steps, tokens, confidence),
            "milliseconds": 1e3 * read.seconds / total,
            "flops": read.flops,
        }
        if name != NEVER:
            full = measured.thresholds[NEVER]
            value, low, high = share_over_rows(read.agreeing, tokens, confidence)
            found[name]["agreement"] = {"value": value, "low": low, "high": high}
            found[name]["regret"] = interval(read.loss - full.loss, tokens, confidence)
    return found, _free(found)


def _free(found: Mapping[str, Any]) -> dict[str, Any] | None:
    allowed = WORTH * found[NEVER]["loss"]["value"] if found else 0.0
    # The upper end of the interval decides: a threshold that may cost more than it should is not free. One that takes
    # longer than all steps, as sorting out who still thinks can in a tiny model, saves nothing; nor does one at which
    # no token stops early, however the clock went.
    fitting = [
        name
        for name, entry in found.items()
        if name != NEVER
        and entry["regret"]["high"] < allowed
        and entry["milliseconds"] < found[NEVER]["milliseconds"]
        and entry["steps"]["value"] < found[NEVER]["steps"]["value"]
    ]
    if not fitting:
        return None
    full, best = found[NEVER], min(fitting, key=lambda name: float(found[name]["milliseconds"]))
    entry = found[best]
    return {
        "threshold": best,
        "time_saved": 1 - entry["milliseconds"] / full["milliseconds"],
        "steps_saved": 1 - entry["steps"]["value"] / full["steps"]["value"],
        "loss_increase": entry["regret"]["value"] / full["loss"]["value"],
    }


@torch.no_grad()
def halting_picture(readings: LossReadings, rows: HeldOut, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Return how long the model thinks about each token of the first row; None: it does not think in steps.

    Returns:
        ``tokens`` (their text), ``steps`` of each, and the ``most`` that there can be.
    """
    ids = torch.tensor([rows.ids[0][:PICTURED]], device=readings.model.device)
    steps = readings.steps(ids)
    if steps is None:
        return None
    texts = [tokenizer.decode([token]) for token in ids[0].tolist()]
    return {"tokens": texts, "steps": steps[0].tolist(), "most": readings.most_steps}
