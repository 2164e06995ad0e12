"""Models that think about each token as long as it needs: thresholds, and a picture of a text, on a report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentforge.evaluation.losses.loss_results import NEVER, WORTH, LossEvaluation
from agentforge.evaluation.report.svg import PlanePoint, plane
from agentforge.evaluation.report.svg_text import shaded_text


def threshold_table(evaluations: Sequence[LossEvaluation]) -> dict[str, Any]:
    """Return loss, steps, time and FLOPs of each model at each threshold at which its tokens stop thinking."""
    rows = [
        [one.label, name, _interval(entry["loss"]), _interval(entry["steps"]), _ratio(entry, full, "milliseconds"),
         f"{entry['flops'] / 1e6:.1f}" if entry["flops"] else "", _speed(entry), _share(entry.get("agreement")),
         f"{entry['regret']['value'] / full['loss']['value']:+.2%}" if "regret" in entry else ""]
        for one in evaluations
        if (found := one.report.get("thresholds"))
        for full in (found[NEVER],)
        for name, entry in found.items()
    ]  # fmt: skip
    headings = ["model", "exit threshold", "loss", "steps a token", "ms/token read", "MFLOP/token", "ms/token written",
                "agreement", "loss increase"]  # fmt: skip
    caption = (
        "A token stops thinking when its probability of having stopped reaches the threshold; never: all steps. Time: "
        "wall, of reading the rows in batches, and with evaluate.loss.speed of writing one token after the other. "
        f"{_free(evaluations)}"
    )
    return {"headings": headings, "rows": rows, "caption": caption.strip()}


def halting_charts(evaluations: Sequence[LossEvaluation]) -> list[dict[str, Any]]:
    """Return loss against steps, and of each model a text whose tokens are shaded by the steps they took."""
    having = [one for one in evaluations if one.report.get("thresholds")]
    charts = []
    if having:
        series = [
            (one.label, number, [_place(name, entry) for name, entry in one.report["thresholds"].items()])
            for number, one in enumerate(having, start=1)
        ]
        svg = plane("Loss against thinking", "steps a token", "loss, nats a token", series)
        charts.append({"title": "Loss against thinking", "note": "a point for each exit threshold", "svg": svg})
    for one in evaluations:
        if picture := one.report.get("picture"):
            title = f"What {one.label} thinks about"
            svg = shaded_text(title, picture["tokens"], picture["steps"], picture["most"], "steps")
            charts.append({"title": title, "note": f"darker: more of its {picture['most']} steps", "svg": svg})
    return charts


def _free(evaluations: Sequence[LossEvaluation]) -> str:
    """Return a sentence on what thinking less saves at an unchanged loss, for each model that was measured."""
    said = []
    for one in evaluations:
        if one.report.get("thresholds"):
            free = one.report["free"]
            what = (
                f"threshold {free['threshold']} saves {free['time_saved']:.0%} of the time of reading and "
                f"{free['steps_saved']:.0%} of the steps"
                if free
                else "no threshold saves time"
            )
            said.append(f"{one.label}: {what}")
    return f"At a loss increase surely below {WORTH:.0%}, {'; '.join(said)}." if said else ""


def _place(name: str, entry: Mapping[str, Any]) -> PlanePoint:
    loss = entry["loss"]
    return PlanePoint(name, entry["steps"]["value"], loss["value"], loss["low"], loss["high"], hollow=name == NEVER)


def _ratio(entry: Mapping[str, Any], full: Mapping[str, Any], name: str) -> str:
    return f"{entry[name]:.3f} ({entry[name] / full[name]:.0%})"


def _speed(entry: Mapping[str, Any]) -> str:
    return f"{entry['speed']['wall']:.2f}" if "speed" in entry else ""


def _interval(measure: Mapping[str, float]) -> str:
    return f"{measure['value']:.3f} [{measure['low']:.3f}, {measure['high']:.3f}]"


def _share(measure: Mapping[str, float] | None) -> str:
    return "" if measure is None else f"{measure['value']:.1%} [{measure['low']:.1%}, {measure['high']:.1%}]"
