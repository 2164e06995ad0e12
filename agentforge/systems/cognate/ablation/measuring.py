"""Accuracy, solved rows, fixed depths, exits, and a picture of who thought how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from agentforge.systems.cognate.ablation.tasks.base import Batch, Task
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM

THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
PICTURED = 6
"""Rows of the picture."""


@dataclass(frozen=True)
class Score:
    """What a model does on one batch.

    Attributes:
        accuracy: of single scored answers.
        solved_rows: share of rows whose scored answers are all right.
        loss: mean cross entropy of the scored answers, in nats.
        by_position: accuracy at each position that has scored answers.
    """

    accuracy: float
    solved_rows: float
    loss: float
    by_position: list[float]


def score_logits(logits: Tensor, batch: Batch) -> Score:
    """Score logits (B, T, V): those at t answer for ``labels[t + 1]``."""
    scored, labels = batch.scored[:, 1:], batch.labels[:, 1:]
    said = logits[:, :-1]
    right = (said.argmax(-1) == labels) & scored
    losses = functional.cross_entropy(said[scored], labels[scored])
    counts = scored.sum(0)
    shares = right.sum(0)[counts > 0] / counts[counts > 0]
    solved = (right | ~scored).all(1)
    return Score(float(right.sum() / scored.sum()), float(solved.float().mean()), float(losses), shares.tolist())


@torch.no_grad()
def score(model: CognateForCausalLM, batch: Batch) -> Score:
    """Score a model at full depth."""
    model.eval()
    return score_logits(model(input_ids=batch.input_ids, exit_threshold=None).logits, batch)


@torch.no_grad()
def measure_exits(model: CognateForCausalLM, batch: Batch) -> dict[str, list[dict[str, Any]]]:
    """Return what a model with halting does at each fixed depth, and at each threshold.

    The thresholds go through the model's own early exit: tokens that have left are really not computed any more.
    """
    model.eval()
    asked = batch.scored[:, 1:]
    fixed = [
        _point(score_logits(logits, batch)) | {"steps": float(depth)}
        for depth, logits in enumerate(logits_by_depth(model, batch.input_ids), start=1)
    ]
    adaptive = []
    for threshold in THRESHOLDS:
        out = model(input_ids=batch.input_ids, exit_threshold=threshold)
        steps = out.halting_steps[:, :-1].float()
        # Only positions that answer count: the others may think as long as they like.
        counts = asked.sum(0)
        by_position = (steps * asked).sum(0)[counts > 0] / counts[counts > 0]
        mean = {"threshold": threshold, "steps": float(steps[asked].mean()), "by_position": by_position.tolist()}
        adaptive.append(_point(score_logits(out.logits, batch)) | mean)
    return {"fixed": fixed, "adaptive": adaptive}


def _point(one: Score) -> dict[str, Any]:
    return {"accuracy": one.accuracy, "loss": one.loss}


def logits_by_depth(model: CognateForCausalLM, input_ids: Tensor) -> Sequence[Tensor]:
    """Return the logits (B, T, V) after each step of the core."""
    return [model.lm_head(hidden) for hidden in model.model.steps(input_ids, exit_threshold=None).hidden]


@torch.no_grad()
def picture_of(model: CognateForCausalLM, task: Task, batch: Batch, threshold: float = 0.9) -> dict[str, Any]:
    """Return the first rows of a test as `drawing.steps_picture` draws them."""
    model.eval()
    few = batch.rows(torch.arange(PICTURED))
    out = model(input_ids=few.input_ids, exit_threshold=threshold)
    right = out.logits[:, :-1].argmax(-1) == few.labels[:, 1:]
    rows = [
        {
            "name": f"row {number + 1}",
            "tokens": [task.token(int(token)) for token in few.input_ids[number, :-1]],
            "steps": out.halting_steps[number, :-1].tolist(),
            "right": [bool(r) if a else None for r, a in zip(right[number], few.scored[number, 1:], strict=True)],
        }
        for number in range(PICTURED)
    ]
    note = f"{task.name}, threshold {threshold:g}: the token and its steps; a red frame is a wrong answer"
    return {"note": note, "rows": rows, "most": model.config.max_recursions}
