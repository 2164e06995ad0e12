"""What `evaluate` does with `evaluate.loss`: losses of a checkpoint on the prepared eval rows, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from agentforge.artifacts import Workspace, write_json
from agentforge.data.store import load_prepared
from agentforge.data.tokenizer import load_tokenizer
from agentforge.errors import UserError
from agentforge.evaluation.losses.decoding_speed import CONTEXT, PROMPTS, TOKENS, TURNS, decoding_speed
from agentforge.evaluation.losses.halting import halting_picture, threshold_report
from agentforge.evaluation.losses.loss_results import FULL, LOSSES, interval
from agentforge.evaluation.losses.measure import HeldOut, LossReadings, Measured, Read, held_out, measure
from agentforge.evaluation.statistics.intervals import share_over_rows
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Losses, Recipe
from agentforge.rollouts.policies.transformers_policy import load_weights
from agentforge.systems.registry import answer, concerned


def evaluate_losses(recipe: Recipe, location: ModelLocation, work: Workspace) -> dict[str, Any]:
    """Measure a model on the recipe's eval rows, write losses.json, and return the part of scores.json.

    Raises:
        UserError: a GGUF, no data, or ways to read that the model does not have.
        CheckRefused: the rows were made with another tokenizer.
    """
    settings = recipe.evaluate.loss
    assert settings is not None
    rows = _rows(recipe, settings)
    readings = _readings(_open(location), location, settings)
    started = time.perf_counter()
    measured = measure(readings, rows, batch_size=recipe.evaluate.batch_size)
    seconds = time.perf_counter() - started
    report = _report(measured, rows, readings.calibrated, recipe.evaluate.confidence)
    # With the size beside the loss, a width can be compared with a model of as many parameters.
    for width, entry in report["widths"].items():
        entry["parameters"] = readings.parameters(width)
    report["thresholds"], report["free"] = threshold_report(measured, rows, recipe.evaluate.confidence)
    report["picture"] = halting_picture(readings, rows, _tokenizer(recipe))
    if settings.speed:
        _time(readings, rows, report)
    report["data"]["path"] = str(recipe.artifact("data"))
    report["seconds"] = round(seconds, 2)
    write_json(work.path / LOSSES, {**report, "rows": _every_row(measured, rows)})
    full = report["widths"].get(FULL)
    work.metrics.update({"loss": full["loss"]["value"]} if full else {}, loss_tokens=report["data"]["tokens"])
    return {"losses": report}


def _rows(recipe: Recipe, settings: Losses) -> HeldOut:
    return held_out(load_prepared(recipe.artifact("data"))["eval"], settings.rows, _tokenizer(recipe))


def _tokenizer(recipe: Recipe) -> Any:
    return load_tokenizer(recipe.artifact("data") / "tokenizer")


def _open(location: ModelLocation) -> Any:
    """Return the model: on one GPU in its own dtype, on a CPU in float32; an adapter is merged in memory."""
    if location.kind == "gguf":
        raise UserError(
            f"evaluate.loss reads checkpoints and adapters; {location.path} is a GGUF: name another --model"
        )
    model: Any = load_weights(location, spread=False)  # what is cut out of it lies on one device
    if location.kind == "adapter":
        # Merged first: otherwise LoRA's extra products would be timed too, and no width could be cut out of the model.
        model = model.merge_and_unload()
    # A CPU computes bfloat16 slowly, and less exactly than the differences that are measured here.
    return (model if torch.cuda.is_available() else model.float()).eval().requires_grad_(False)


def _readings(model: Any, location: ModelLocation, settings: Losses) -> LossReadings:
    """Return how the model is read: as its system says, else as a whole.

    Raises:
        UserError: a system's keys are set, and the model is none of its own.
    """
    systems = concerned(model.config.to_dict(), {"evaluate.loss": settings})
    return answer("loss_readings", systems, model, location, settings) or LossReadings(model)


def _report(measured: Measured, rows: HeldOut, calibrated: Mapping[int, Any], confidence: float) -> dict[str, Any]:
    tokens = rows.tokens
    total = int(tokens.sum())
    # Nats per token times tokens per byte is nats per byte; divided by ln 2, bits per byte, comparable across
    # tokenizers.
    scale = total / rows.bytes / np.log(2) if rows.bytes else None

    def losses(read: Read) -> dict[str, Any]:
        loss = interval(read.loss, tokens, confidence)
        bits = {key: value * scale for key, value in loss.items()} if scale else None
        return {"loss": loss, "bits_per_byte": bits}

    full = measured.widths.get(FULL)

    def against_full(read: Read) -> dict[str, Any]:
        # Row by row, so that what makes a row hard for both cancels out, and the interval is that of the difference.
        return {"regret": interval(read.loss - full.loss, tokens, confidence)} if full and read is not full else {}

    def exit(read: Read) -> dict[str, Any]:
        assert read.agreeing is not None
        share, low, high = share_over_rows(read.agreeing, tokens, confidence)
        return losses(read) | against_full(read) | {"agreement": {"value": share, "low": low, "high": high}}

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
            str(layer): exit(read) | {"calibrated": asdict(calibrated[layer]) if layer in calibrated else None}
            for layer, read in measured.exits.items()
        },
        "together": together,
    }


def _time(readings: LossReadings, rows: HeldOut, report: dict[str, Any]) -> None:
    """Add to the report what a token costs at each width and with the exits."""
    model = readings.model
    # Rows long enough to fill `CONTEXT`, so that all prompts cost the same.
    longest = sorted(rows.ids, key=len, reverse=True)[:PROMPTS]
    prompts = [row[:CONTEXT] for row in longest]
    speeds = decoding_speed(prompts, readings.decoders(), model.device)
    for width in readings.widths:
        report["widths"][width]["speed"] = asdict(speeds[width])
    if "exits" in speeds:
        report["together"]["speed"] = asdict(speeds["exits"])
    for name, entry in report["thresholds"].items():
        entry["speed"] = asdict(speeds[f"threshold {name}"])
    report["timing"] = {
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else "cpu",
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "prompts": len(prompts),
        "context": CONTEXT,
        "tokens": TOKENS,
        "turns": TURNS,
    }


def _every_row(measured: Measured, rows: HeldOut) -> dict[str, Any]:
    """Return each row's tokens and losses, with which models can be compared pair by pair."""
    return {
        "tokens": rows.tokens.astype(int).tolist(),
        "widths": {width: read.loss.tolist() for width, read in measured.widths.items()},
        "exits": {str(layer): read.loss.tolist() for layer, read in measured.exits.items()},
        "thresholds": {name: read.loss.tolist() for name, read in measured.thresholds.items()},
        "together": measured.together.loss.tolist() if measured.together else None,
    }
