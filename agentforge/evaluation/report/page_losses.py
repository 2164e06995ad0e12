"""Losses of phases, widths and exits on a report's page, with what a token costs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentforge.evaluation.losses.loss_results import (
    FULL,
    LossEvaluation,
    all_of,
    alone,
    difference,
    on_the_same_rows,
    read_losses,
)
from agentforge.evaluation.report.page_halting import halting_charts, threshold_table
from agentforge.evaluation.report.svg import PlanePoint, plane

Table = dict[str, Any]


def loss_groups(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what is shown of the losses, one group for each set of rows that they were measured on."""
    groups = [_group(group) for group in on_the_same_rows(read_losses(paths))]
    for number, group in enumerate(groups):
        group["id"] = f"losses-{number}"
        # Only the first group has a tile: losses on different rows cannot be ranked together.
        group["tiles"] = group["tiles"] if number == 0 else []
    return groups


def _group(evaluations: list[LossEvaluation]) -> dict[str, Any]:
    data = evaluations[0].report["data"]
    names = all_of([[Path(one.report["data"]["path"]).name] for one in evaluations])
    explanation = (
        f"Mean loss of the next token, in nats, on {data['tokens']:,} tokens of {data['rows']:,} held-out rows "
        f"({', '.join(names)}), with {evaluations[0].report['confidence']:.0%} intervals over rows. Less is better."
    )
    tables = [
        _widths(evaluations),
        _beside(evaluations),
        _exits(evaluations),
        _calibration(evaluations),
        threshold_table(evaluations),
        _speeds(evaluations),
    ]
    # Of each model the first width, which is its widest.
    value, label = min((next(iter(one.widths.values()))["loss"]["value"], one.label) for one in evaluations)
    tile = {"name": "Lowest loss", "value": f"{value:.3f}", "note": f"nats a token; {label}"}
    return {
        "title": f"Loss on {names[0]}" if len(names) == 1 else f"Loss on {names[0]} and the same rows of others",
        "explanation": explanation,
        "charts": [*_planes(evaluations), *halting_charts(evaluations)],
        "tables": [table for table in tables if table["rows"]],
        "tiles": [tile],
    }


def _widths(evaluations: Sequence[LossEvaluation]) -> Table:
    """Phase by width; beside a width the model of its size that was trained alone."""
    columns: list[tuple[str, bool]] = []
    for width in all_of([list(one.widths) for one in evaluations]):
        # A width is followed by the model of its size that was trained alone, if any model here has such a twin.
        columns.append((width, False))
        if any(width in one.widths and alone(one, width, evaluations) for one in evaluations):
            columns.append((width, True))
    rows = []
    for one in evaluations:
        cells = []
        for width, by_itself in columns:
            shown = (alone(one, width, evaluations) if by_itself else one) if width in one.widths else None
            cells.append("" if shown is None else _loss(shown.widths[FULL if by_itself else width]["loss"]))
        rows.append([one.label, f"{next(iter(one.widths.values()))['parameters']:,}", *cells])
    headings = [f"{width}, alone" if by_itself else f"width {width}" for width, by_itself in columns]
    notes = []
    if any(by_itself for _, by_itself in columns):
        notes.append("Alone: a model of exactly as many parameters that was trained from scratch.")
    if all(one.report["data"]["bytes"] for one in evaluations):
        headings.append("bits a byte")
        notes.append("Bits a byte: of the first width.")
        for row, one in zip(rows, evaluations, strict=True):
            row.append(f"{next(iter(one.widths.values()))['bits_per_byte']['value']:.3f}")
    headings = ["model", "parameters", *headings]
    return {"headings": headings, "rows": rows, "caption": " ".join(notes) or None}


def _beside(evaluations: Sequence[LossEvaluation]) -> Table:
    rows = []
    for one in evaluations:
        for width, entry in one.widths.items():
            if (other := alone(one, width, evaluations)) is not None:
                rows.append([one.label, width, f"{entry['parameters']:,}", _loss(entry["loss"]), other.label,
                             _loss(other.widths[FULL]["loss"]), _signed(difference(one, width, other)),
                             f"{one.trained_tokens:,}", f"{other.trained_tokens:,}"])  # fmt: skip
    headings = ["model", "width", "parameters", "loss", "trained alone", "its loss", "difference", "tokens trained",
                "alone"]  # fmt: skip
    caption = "Difference: of the same rows, pair by pair; above 0 the width loses more than the model trained alone."
    return {"headings": headings, "rows": rows, "caption": caption}


def _exits(evaluations: Sequence[LossEvaluation]) -> Table:
    having = [one for one in evaluations if one.report["exits"]]
    layers = sorted(all_of([list(one.report["exits"]) for one in having]), key=int)
    rows = []
    for one in having:
        exits = one.report["exits"]
        cells = [_loss(exits[layer]["loss"]) if layer in exits else "" for layer in layers]
        together, full = one.report["together"], one.widths.get(FULL)
        rows.append(
            [one.label, *cells, _loss(full["loss"]) if full else "", _loss(together["loss"]) if together else ""]
        )
    headings = ["model", *(f"exit after {layer}" for layer in layers), "full depth", "calibrated exits"]
    caption = "Calibrated exits: each token is read at the first exit that is sure of it, as in decoding."
    return {"headings": headings, "rows": rows, "caption": caption}


def _calibration(evaluations: Sequence[LossEvaluation]) -> Table:
    rows = []
    for one in evaluations:
        for layer, entry in one.report["exits"].items():
            exit = entry["calibrated"] or {}
            # No threshold: no confidence kept the wanted agreement, so the exit is not used.
            used = exit.get("threshold") is not None
            measured = used and exit["agreement"] is not None
            rows.append([one.label, layer, _share(entry["agreement"]), exit.get("confidence", "").replace("_", " "),
                         f"{exit['wanted']:.0%}" if exit else "", f"{exit['threshold']:.3f}" if used else "not used",
                         _share({**exit, "value": exit["agreement"]}) if measured else "",
                         f"{exit['share']:.1%}" if used else "", f"{exit['tokens']:,}" if used else ""])  # fmt: skip
        if together := one.report["together"]:
            layers = ", ".join(f"{share:.1%} after {layer}" for layer, share in together["shares"].items())
            rows.append([one.label, "all together", _share(together["agreement"]), layers, "", "", "", "", ""])
    headings = ["model", "exit after", "agreement, all tokens", "confidence", "wanted", "threshold",
                "agreement of those leaving", "share leaving", "tokens"]  # fmt: skip
    caption = (
        "Agreement: the likeliest token is that of full depth. The last three were measured by the calibration, on "
        "rows that did not choose the threshold, of the tokens that came so far."
    )
    return {"headings": headings, "rows": rows, "caption": caption}


def _ways(one: LossEvaluation) -> list[tuple[str, dict[str, Any]]]:
    """Return the ways of decoding that were timed."""
    ways = [(f"width {width}", entry) for width, entry in one.widths.items()]
    if together := one.report["together"]:
        ways.append(("exits", together))
    ways += [(f"threshold {name}", entry) for name, entry in one.report.get("thresholds", {}).items()]
    return [(name, entry) for name, entry in ways if "speed" in entry]


def _speeds(evaluations: Sequence[LossEvaluation]) -> Table:
    rows = []
    for one in evaluations:
        ways = _ways(one)
        for name, entry in ways:
            # The widest comes first: speed-ups are relative to it.
            speed, first = entry["speed"], ways[0][1]["speed"]
            size = f"{entry['parameters']:,}" if "parameters" in entry else ""
            rows.append([one.label, name, size, _loss(entry["loss"]), f"{speed['cpu']:.2f}", f"{speed['wall']:.2f}",
                         f"{first['cpu'] / speed['cpu']:.2f}", f"{first['wall'] / speed['wall']:.2f}"])  # fmt: skip
    headings = [
        "model",
        "decoded",
        "parameters",
        "loss",
        "CPU ms/token",
        "wall ms/token",
        "faster, CPU",
        "faster, wall",
    ]
    timings = all_of([[_timing(one.report["timing"])] for one in evaluations if "timing" in one.report])
    return {"headings": headings, "rows": rows, "caption": f"Greedy, one prompt at a time: {'; '.join(timings)}."}


def _timing(timing: Mapping[str, Any]) -> str:
    threads = f", {timing['threads']} thread{'s' if timing['threads'] > 1 else ''}" if timing["device"] == "cpu" else ""
    return (
        f"{timing['device']}{threads}, {timing['dtype']}, {timing['tokens']} tokens after {timing['context']}, "
        f"{timing['prompts']} prompts, best of {timing['turns']} turns"
    )


def _planes(evaluations: Sequence[LossEvaluation]) -> list[dict[str, Any]]:
    """Return loss against milliseconds, one chart for each machine that was timed on."""
    charts = []
    timed = [one for one in evaluations if _ways(one)]
    for timing in all_of([[_timing(one.report["timing"])] for one in timed]):
        # The number is the colour, counted over all models, so that a model has the same one on every chart.
        series = [
            (one.label, number, [_place(name, entry) for name, entry in _ways(one)])
            for number, one in enumerate(timed, start=1)
            if _timing(one.report["timing"]) == timing
        ]
        title = "Quality against time"
        svg = plane(title, "wall ms a token", "loss, nats a token", series)
        charts.append({"title": title, "note": f"{timing}; hollow: early exits", "svg": svg})
    return charts


def _place(name: str, entry: Mapping[str, Any]) -> PlanePoint:
    loss = entry["loss"]
    short = name.removeprefix("width ")
    return PlanePoint(short, entry["speed"]["wall"], loss["value"], loss["low"], loss["high"], hollow=name == "exits")


def _loss(measure: Mapping[str, float]) -> str:
    return f"{measure['value']:.3f} [{measure['low']:.3f}, {measure['high']:.3f}]"


def _signed(measure: Mapping[str, float]) -> str:
    return f"{measure['value']:+.3f} [{measure['low']:+.3f}, {measure['high']:+.3f}]"


def _share(measure: Mapping[str, float]) -> str:
    return f"{measure['value']:.1%} [{measure['low']:.1%}, {measure['high']:.1%}]"
