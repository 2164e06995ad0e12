"""`evaluate.thinking`: are the thinking steps worth anything? Evidence with intervals instead of a norm that grows.

The first implementation measured how far the steps move the latent and called a movement reasoning; a random model
moved it furthest. Here it is bits: what the same model needs after 0 to K steps, and what models need that were trained
without the steps and given their parameters or their arithmetic elsewhere. All read the same windows, and intervals are
of the differences, window by window.
"""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agentforge.artifacts import Workspace, write_json
from agentforge.data.sources.raw_bytes import read_bytes
from agentforge.errors import UserError
from agentforge.evaluation.bits.evaluate_bits import measured_on
from agentforge.evaluation.own_scores import Figure, Scores
from agentforge.evaluation.statistics.intervals import ratio_t
from agentforge.models.locate_model import ModelLocation, locate_path
from agentforge.recipe.schema import Recipe
from agentforge.recipe.section import keys_of
from agentforge.rollouts.policies.transformers_policy import load_weights
from agentforge.systems.agiformer.checkpoint_types import BYTES
from agentforge.systems.agiformer.evaluation.verdict import CHANGE, GAIN, GAIN_OVER, THINKING, WITHOUT, after, verdict
from agentforge.systems.agiformer.recipe_sections import AgiformerEvaluate

log = logging.getLogger(__name__)

LN2 = math.log(2)
Array = NDArray[np.float64]


@dataclass
class Read:
    """What reading the windows with all steps gave.

    Attributes:
        bits: (steps + 1, rows) summed over the bytes of a window, after each number of steps.
        change: (steps, rows) KL in bits from the distribution after a step to that before it, summed.
        stops: (steps + 1,) bytes whose patch stops after so many steps; None: the model does not halt.
        counted: bytes that were predicted in each window.
    """

    bits: Array
    change: Array
    stops: Array | None
    counted: int


def evaluate_thinking(recipe: Recipe, location: ModelLocation, work: Workspace) -> Scores:
    """Measure a model's thinking steps, and write thinking.json with the verdict.

    Raises:
        UserError: no text, a model without thinking steps, or a control that has some.
    """
    settings, bpc = keys_of(recipe.evaluate, AgiformerEvaluate).thinking, recipe.evaluate.bpc
    assert settings is not None
    if bpc is None:
        raise UserError("evaluate.thinking reads the text of evaluate.bpc; set evaluate.bpc.text")
    text = read_bytes(bpc.text, recipe.data)[: bpc.max_bytes]
    rows = windows_of(text, bpc.context, settings.rows, recipe.seed)
    read = read_steps(_opened(location), rows, recipe.evaluate.batch_size)
    controls = {name: _control(path, rows, recipe) for name, path in settings.controls.items()}
    confidence = recipe.evaluate.confidence
    figures = _figures(read, controls, len(rows), confidence)
    said = verdict(figures)
    stops = None if read.stops is None else read.stops.tolist()
    write_json(
        work.path / THINKING,
        {
            "verdict": said,
            "confidence": confidence,
            "stops": stops,
            "figures": {name: asdict(figure) for name, figure in figures.items()},
        },
    )
    log.info("%s: %s", location.label, said)
    place = f"{measured_on(bpc, text)}, {len(rows)} windows"
    return Scores(f"thinking steps: {said}", place, confidence, figures)


def windows_of(text: bytes, context: int, count: int, seed: int) -> Tensor:
    """Return `(rows, context)` bytes of windows that do not overlap, drawn from the whole text.

    Raises:
        UserError: the text has not even two.
    """
    total = len(text) // context
    if total < 2:
        raise UserError(f"evaluate.thinking needs at least two windows of {context} bytes; the text has {len(text):,}")
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:count])
    whole = torch.frombuffer(bytearray(text[: total * context]), dtype=torch.uint8).view(total, context)
    return whole[torch.from_numpy(chosen)].long()


@torch.inference_mode()
def read_steps(model: Any, rows: Tensor, batch: int) -> Read:
    """Return what a model makes of windows `(rows, T)` after each number of thinking steps."""
    parts = [_read(model, part.to(model.device)) for part in rows.split(batch)]
    counted = [part.stops for part in parts if part.stops is not None]
    stops = np.sum(counted, axis=0) if counted else None
    return Read(
        np.concatenate([part.bits for part in parts], axis=1),
        np.concatenate([part.change for part in parts], axis=1),
        stops,
        rows.shape[1] - 1,
    )


def _read(model: Any, rows: Tensor) -> Read:
    hidden, halting, contexts = model.model.steps(rows)
    bits, change, before = [], [], None
    for step in hidden:
        # a special token cannot stand in a text: as in evaluate.bpc, it gets no probability
        log_p = model.logits(step, contexts)[:, :-1, :BYTES].float().log_softmax(-1) / LN2
        bits.append(-log_p.gather(2, rows[:, 1:, None])[..., 0].double().sum(1))
        if before is not None:
            change.append(((log_p * LN2).exp() * (log_p - before)).double().sum((1, 2)))
        before = log_p
    stops = None
    if halting is not None:
        passed = torch.sigmoid(-halting[:, :-1, :-1]).cumprod(-1)  # of not having stopped after 0 ... K - 1 steps
        threshold = model.config.exit_threshold if model.config.exit_threshold is not None else 0.5
        taken = (1 - passed < threshold).sum(-1).flatten()
        stops = torch.bincount(taken, minlength=len(hidden)).double().cpu().numpy()
    empty = torch.zeros(0, len(rows), dtype=torch.float64)
    return Read(
        torch.stack(bits).cpu().numpy(),
        (torch.stack(change) if change else empty).cpu().numpy(),
        stops,
        rows.shape[1] - 1,
    )


def _opened(location: ModelLocation) -> Any:
    if location.kind == "gguf":
        raise UserError(f"evaluate.thinking reads checkpoints; {location.path} is a GGUF")
    model: Any = load_weights(location, spread=False)
    if not hasattr(model.config, "thinking_steps"):
        raise UserError(f"evaluate.thinking reads AGIFORMER models; {location.path} is a {model.config.model_type}")
    return (model if torch.cuda.is_available() else model.float()).eval()


def _control(path: str, rows: Tensor, recipe: Recipe) -> Array:
    """Return the bits of each window of a model without thinking steps."""
    model = _opened(locate_path(path))
    if model.config.thinking_steps:
        raise UserError(f"evaluate.thinking.controls: {path} has thinking steps; a control is trained without them")
    return read_steps(model, rows, recipe.evaluate.batch_size).bits[0]


def _figures(read: Read, controls: dict[str, Array], rows: int, confidence: float) -> dict[str, Figure]:
    counts = np.full(rows, float(read.counted))

    def figure(sums: Array, chance: float | None = None) -> Figure:
        value, low, high = (float(x) for x in ratio_t(sums, counts, confidence))
        return Figure(value, low, high, rows * read.counted, chance, "bits per byte")

    steps = len(read.bits) - 1
    figures = {after(step): figure(read.bits[step], 8.0) for step in range(steps + 1)}
    for step in range(steps):
        figures[CHANGE.format(step + 1)] = figure(read.change[step])
    if steps:
        figures[GAIN] = figure(read.bits[0] - read.bits[-1])
    for name, bits in controls.items():
        figures[WITHOUT + name] = figure(bits, 8.0)
        figures[GAIN_OVER + name] = figure(bits - read.bits[-1])
    return figures
