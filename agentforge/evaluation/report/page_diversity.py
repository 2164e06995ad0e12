"""A set of models on a report's page: how much they differ, beside models that differ by seed alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentforge.evaluation.report.svg import Dot, interval_chart
from agentforge.evaluation.scores_file import read_scores

TITLES = {"models": "the set", "control": "seeds alone"}
NAMES = {"js": "Jensen-Shannon distance", "latency": "wall ms/token"}
MORE = "differ more than seeds do"


def diversity_groups(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return a section for each evaluation of `evaluate.diversity`."""
    reports = [report for path in paths if (report := read_scores(path).get("diversity"))]
    return [_group(number, report) for number, report in enumerate(reports)]


def _group(number: int, report: Mapping[str, Any]) -> dict[str, Any]:
    data, findings = report["data"], report["findings"]
    explanation = (
        f"Measured on {data['tokens']:,} tokens of {data['rows']:,} held-out rows, with {report['confidence']:.0%} "
        "bootstrap intervals over rows. Seeds alone: the same measures of models that differ only by the seed of their "
        "training. The models of the set differ more than that only where the interval of the difference excludes 0. "
        "The intervals cover other rows, not other seeds."
    )
    tables = [_findings(findings), _models(report), _pairs(report)]
    more = [name for name, found in findings.items() if found["verdict"] == MORE]
    tile = {"name": "Differ more than seeds", "value": f"{len(more)} of {len(findings)}", "note": "measures"}
    return {
        "id": f"diversity-{number}",
        "title": "Do the models differ?",
        "explanation": explanation,
        "charts": _charts(report),
        "tables": tables,
        "tiles": [tile] if "control" in report["models"] else [],
    }


def _findings(findings: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [_name(name), _interval(found["models"]), _interval(found["control"]), _interval(found["difference"], "+"),
         found["verdict"] or ""]
        for name, found in findings.items()
    ]  # fmt: skip
    caption = (
        "Double fault: both of a pair are wrong. Error correlation: of being wrong; less means more diverse. Vote and "
        "oracle gain: share of tokens that the vote, or any model, gets right beyond the best single model."
    )
    headings = ["measure", "the set", "seeds alone", "difference", "the models of the set"]
    return {"headings": headings, "rows": rows, "caption": caption}


def _models(report: Mapping[str, Any]) -> dict[str, Any]:
    every = [(TITLES[kind], label, entry) for kind, of in report["models"].items() for label, entry in of.items()]
    names = list(dict.fromkeys(name for _, _, entry in every for name in entry))
    units = report["units"]
    rows = [
        [label, title, *(_interval(entry.get(name)) for name in names)] for title, label, entry in every
    ]  # fmt: skip
    headings = ["model", "of", *(f"{_name(name)}{f', {units[name]}' if name in units else ''}" for name in names)]
    return {"headings": headings, "rows": rows, "caption": "Means over tokens."}


def _pairs(report: Mapping[str, Any]) -> dict[str, Any]:
    every = [(TITLES[kind], entry) for kind, of in report["pairs"].items() for entry in of]
    names = list(dict.fromkeys(name for _, entry in every for name in entry if name != "pair"))
    rows = [[" and ".join(e["pair"]), title, *(_interval(e.get(name)) for name in names)] for title, e in every]
    return {"headings": ["pair", "of", *map(_name, names)], "rows": rows, "caption": None}


def _charts(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    dots = [
        Dot(" and ".join(entry["pair"]), colour, entry["js"]["value"], entry["js"]["low"], entry["js"]["high"])
        for colour, of in enumerate(report["pairs"].values(), start=1)
        for entry in of
    ]
    title = "Jensen-Shannon distance of each pair"
    note = "first the set, then seeds alone" if "control" in report["pairs"] else ""
    return [{"title": title, "note": note, "svg": interval_chart(title, dots, None, None)}]


def _name(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def _interval(measure: Mapping[str, float] | None, sign: str = "") -> str:
    if measure is None:
        return ""
    value = f"{measure['value']:{sign}.4g}"
    return f"{value} [{measure['low']:{sign}.4g}, {measure['high']:{sign}.4g}]" if "low" in measure else value
