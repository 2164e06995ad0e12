"""What `evaluate` does with `evaluate.loss`: losses of a checkpoint on the prepared eval rows, and what they cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentforge.artifacts import Workspace, write_json
from agentforge.data.store import load_prepared
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError
from agentforge.evaluation.decoding_speed import CONTEXT, PROMPTS, TOKENS, TURNS, Decode, decoding_speed
from agentforge.evaluation.intervals import ratio_t
from agentforge.evaluation.loss_results import FULL, LOSSES
from agentforge.evaluation.losses import HeldOut, Measured, Read, held_out, measure
from agentforge.models.adamba.exits import Exits, exits_of, load_exits
from agentforge.models.adamba.generation import generate
from agentforge.models.adamba.router import parameters
from agentforge.models.adamba.submodels import parse_width, submodel
from agentforge.models.locate import ModelLocation
from agentforge.proportions import share_over_rows
from agentforge.recipe.schema import Losses, Recipe
from agentforge.rollouts.transformers_policy import load_weights

log = logging.getLogger(__name__)

NESTING = ("falcon_h1", "adamba")


def evaluate_losses(recipe: Recipe, location: ModelLocation, work: Workspace) -> dict[str, Any]:
    """Measure a model on the recipe's eval rows, write losses.json, and return the part of scores.json.

    Raises:
        UserError: a GGUF, no data, or widths of a model that has none inside.
        CheckRefused: the rows were made with another tokenizer.
    """
    settings = recipe.evaluate.loss
    assert settings is not None
    rows = _rows(recipe, settings)
    model = _open(location)
    widths = _widths(model, settings)
    layers, calibrated = _exits(model, location, settings)
    started = time.perf_counter()
    measured = measure(
        model, rows, widths=widths, exits=layers, calibrated=calibrated, batch_size=recipe.evaluate.batch_size
    )
    seconds = time.perf_counter() - started
    report = _report(measured, rows, calibrated, recipe.evaluate.confidence)
    for width, entry in report["widths"].items():
        entry["parameters"] = parameters(submodel(model, width) if width != FULL else model)
    if settings.speed:
        _time(model, rows, widths, measured, report)
    report["data"]["path"] = str(recipe.artifact("data"))
    report["seconds"] = round(seconds, 2)
    write_json(work.path / LOSSES, {**report, "rows": _every_row(measured, rows)})
    full = report["widths"].get(FULL)
    work.metrics.update({"loss": full["loss"]["value"]} if full else {}, loss_tokens=report["data"]["tokens"])
    return {"losses": report}


def _rows(recipe: Recipe, settings: Losses) -> HeldOut:
    directory = recipe.artifact("data")
    return held_out(load_prepared(directory)["eval"], settings.rows, load_tokenizer(directory / "tokenizer"))


def _open(location: ModelLocation) -> Any:
    """Return the model: on one GPU in its own dtype, on a CPU in float32; an adapter is merged in memory."""
    if location.kind == "gguf":
        raise UserError(
            f"evaluate.loss reads checkpoints and adapters; {location.path} is a GGUF: name another --model"
        )
    model: Any = load_weights(location, spread=False)  # what is cut out of it lies on one device
    if location.kind == "adapter":
        model = model.merge_and_unload()
    return (model if torch.cuda.is_available() else model.float()).eval().requires_grad_(False)


def _widths(model: Any, settings: Losses) -> list[str]:
    shares = sorted({parse_width(width) for width in settings.widths}, reverse=True)
    if shares != [1] and model.config.model_type not in NESTING:
        raise UserError(
            f"evaluate.loss.widths: a {model.config.model_type} has no narrower models inside; set it to ['1']"
        )
    return [str(share) for share in shares]


def _exits(model: Any, location: ModelLocation, settings: Losses) -> tuple[list[int], Exits | None]:
    """Return the layers that are measured, and what is calibrated for them."""
    if not settings.exits:
        return [], None
    calibrated = load_exits(Path(location.path)) if location.kind == "hf" else None
    if calibrated is not None and calibrated.calibrated:
        calibrated = exits_of(model)  # which checks them
    layers = set(getattr(model.config, "exit_layers", None) or ()) | set(calibrated.calibrated if calibrated else ())
    if not layers:
        log.info("%s has no early exits: its loss is measured at full depth alone", location.label)
    return sorted(layers), calibrated


def _report(measured: Measured, rows: HeldOut, calibrated: Exits | None, confidence: float) -> dict[str, Any]:
    tokens = rows.tokens
    total = int(tokens.sum())
    scale = total / rows.bytes / np.log(2) if rows.bytes else None

    def losses(read: Read) -> dict[str, Any]:
        loss = interval(read.loss, tokens, confidence)
        bits = {key: value * scale for key, value in loss.items()} if scale else None
        return {"loss": loss, "bits_per_byte": bits}

    full = measured.widths.get(FULL)

    def against_full(read: Read) -> dict[str, Any]:
        return {"regret": interval(read.loss - full.loss, tokens, confidence)} if full and read is not full else {}

    def exit(read: Read) -> dict[str, Any]:
        assert read.agreeing is not None
        share, low, high = share_over_rows(read.agreeing, tokens, confidence)
        return losses(read) | against_full(read) | {"agreement": {"value": share, "low": low, "high": high}}

    entries = calibrated.calibrated if calibrated else {}
    together = None
    if measured.together is not None:
        shares = {str(layer): left / total for layer, left in sorted(measured.left.items())}
        together = exit(measured.together) | {
            "shares": shares,
            "layers": sum(int(layer) * share for layer, share in shares.items()),
        }
    return {
        "data": {"rows": len(tokens), "tokens": total, "bytes": rows.bytes, "hash": rows.hash},
        "confidence": confidence,
        "widths": {width: losses(read) | against_full(read) for width, read in measured.widths.items()},
        "exits": {
            str(layer): exit(read) | {"calibrated": asdict(entries[layer]) if layer in entries else None}
            for layer, read in measured.exits.items()
        },
        "together": together,
    }


def interval(sums: Any, tokens: Any, confidence: float) -> dict[str, float]:
    """Return value, low and high of a mean over tokens."""
    value, low, high = ratio_t(sums, tokens, confidence)
    return {"value": value, "low": low, "high": high}


def _time(model: Any, rows: HeldOut, widths: Sequence[str], measured: Measured, report: dict[str, Any]) -> None:
    """Add to the report what a token costs at each width and with the exits."""
    longest = sorted(rows.ids, key=len, reverse=True)[:PROMPTS]
    prompts = [row[:CONTEXT] for row in longest]
    ways = {width: _decode(model, width=width) for width in widths}
    if measured.together is not None:
        ways["exits"] = _decode(model, exit_threshold="calibrated")
    speeds = decoding_speed(prompts, ways, model.device)
    for width in widths:
        report["widths"][width]["speed"] = asdict(speeds[width])
    if "exits" in speeds:
        report["together"]["speed"] = asdict(speeds["exits"])
    report["timing"] = {
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "prompts": len(prompts),
        "context": CONTEXT,
        "tokens": TOKENS,
        "turns": TURNS,
    }


def _decode(model: Any, **way: Any) -> Decode:
    # one that is no Adamba has its own `generate`, which knows no widths
    own = None if model.config.model_type in NESTING else model.generate

    def decode(ids: torch.Tensor, new: int) -> Any:
        options: Mapping[str, Any] = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
        mask = torch.ones_like(ids)
        if own is not None:
            return own(ids, attention_mask=mask, **options)
        return generate(model, ids, attention_mask=mask, **options, **way)

    return decode


def _every_row(measured: Measured, rows: HeldOut) -> dict[str, Any]:
    """Return each row's tokens and losses, with which models can be compared pair by pair."""
    return {
        "tokens": rows.tokens.astype(int).tolist(),
        "widths": {width: read.loss.tolist() for width, read in measured.widths.items()},
        "exits": {str(layer): read.loss.tolist() for layer, read in measured.exits.items()},
        "together": measured.together.loss.tolist() if measured.together else None,
    }
