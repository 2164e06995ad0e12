"""Scores, frontier and sample episodes of a report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from agentforge.errors import UserError
from agentforge.evaluation.comparable import summary
from agentforge.evaluation.compare.comparison import (
    POSTERIOR,
    Comparison,
    Evaluation,
    contenders,
    labels,
    read_evaluations,
)
from agentforge.evaluation.compare.side_by_side import check_questions
from agentforge.evaluation.compare.tables import AGGREGATES, best_baseline
from agentforge.evaluation.report.svg import Dot, interval_chart, scatter
from agentforge.evaluation.scores_file import read_scores
from agentforge.evaluation.statistics.dominance import RULES
from agentforge.evaluation.statistics.posterior import SURE
from agentforge.evaluation.tasks.sample_episodes import read_examples
from agentforge.rollouts.episodes import Episode

LONGEST = 6000
"""Characters of a text that are shown."""
PAIRS = 6
"""Pairs of environments that are drawn."""


def score_groups(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what is shown of tool calls and of environments, as far as they are evaluated."""
    groups = []
    groups += [_tool_calls([read_scores(path) for path in alike]) for alike in comparable(paths, "questions")]
    groups += [_environments(Comparison(read_evaluations(alike))) for alike in comparable(paths, "environments")]
    for number, group in enumerate(groups):
        group["id"] = f"scores-{number}"
    return groups


def comparable(paths: Sequence[Path], part: str) -> list[list[Path]]:
    """Return the evaluations that have a part, in groups to which the same was asked in the same way.

    Args:
        part: of scores.json, ``questions`` or ``environments``.
    """
    groups: list[list[Path]] = []
    for path in paths:
        if part not in read_scores(path):
            continue
        group = next((group for group in groups if _belong_together([*group, path], part)), None)
        if group is None:
            groups.append([path])
        else:
            group.append(path)
    return groups


def _belong_together(paths: Sequence[Path], part: str) -> bool:
    try:
        if part == "questions":
            check_questions(paths, [read_scores(path) for path in paths])
        else:
            read_evaluations(paths)
    except UserError:
        return False
    return True


def _tool_calls(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = labels(reports)
    first, confidence = reports[0], f"{reports[0]['interval']['confidence']:.0%}"
    charts = []
    for measure, entry in first["scores"].items():
        dots = [
            Dot(label, colour, *_limits(report["scores"][measure]))
            for colour, (label, report) in enumerate(zip(names, reports, strict=True))
        ]
        title = measure.replace("_", " ")
        svg = interval_chart(title, dots, entry["chance"], None)
        charts.append({"title": title, "note": entry["meaning"], "svg": svg})
    questions = first["questions"]
    explanation = (
        f"{questions['n']} tool calls in {questions['conversations']} held-out conversations. Bars are {confidence} "
        f"{first['interval']['kind']} intervals; the dotted line is chance. Decoding: {summary(first['decoding'])}."
    )
    return {"title": "Tool calls", "explanation": explanation, "charts": charts, "tables": [], "tiles": []}


def _environments(comparison: Comparison) -> dict[str, Any]:
    first = comparison.evaluations[0]
    charts = [_environment_chart(comparison, name) for name in comparison.environments]
    confidence = f"{first.report['environments']['confidence']:.0%}"
    explanation = (
        f"Reserved tasks, the same for every model. Bars are {confidence} intervals (Beta-Jeffreys of success rates, "
        "ABC bootstrap of graded scores); the dotted line is chance, the dashed line the best trivial strategy."
    )
    if (decoded := next((one.decoding for one in comparison.evaluations if one.decoding), None)) is not None:
        explanation += f" Decoding: {summary(decoded)}."
    # Scripts are no contenders: an expert would nearly always be the best.
    best = max(contenders(comparison.evaluations), key=_success_rate)
    tiles = [
        {
            "name": "Best success rate",
            "value": f"{_success_rate(best):.1%}",
            "note": f"{best.label}; {first.label} {_success_rate(first):.1%}",
        }
    ]
    tables = [_numbers(comparison), _aggregates(comparison)]
    return {"title": "Scores", "explanation": explanation, "charts": charts, "tables": tables, "tiles": tiles}


def _success_rate(one: Evaluation) -> float:
    return float(one.report["environments"]["aggregates"]["success_rate"]["value"])


def _environment_chart(comparison: Comparison, name: str) -> dict[str, Any]:
    headline = comparison.headline(name)
    entries = [one.scores[name] for one in comparison.evaluations]
    dots = [
        Dot(label, colour, *_limits(entry[headline]), f"of {entry['n']}")
        for colour, (label, entry) in enumerate(zip(comparison.labels, entries, strict=True))
    ]
    best = best_baseline(entries[0])
    what = "mean score" if headline == "mean" else "success rate"
    note = f"{what}, {entries[0]['tasks']} tasks" + (f", best trivial strategy: {best[0]}" if best else "")
    svg = interval_chart(name, dots, entries[0]["chance"], best[1] if best else None)
    return {"title": name, "note": note, "svg": svg}


def _numbers(comparison: Comparison) -> dict[str, Any]:
    headings = ["environment", "model", "n", "success rate", "mean", "median", "sd", "valid actions", "truncated",
                "turns", "lost"]  # fmt: skip
    rows = []
    for name in comparison.environments:
        for label, one in zip(comparison.labels, comparison.evaluations, strict=True):
            entry = one.scores[name]
            rate, mean = entry["success_rate"], entry["mean"]
            rows.append([name, label, entry["n"], _interval(rate), _interval(mean), f"{entry['median']:.2f}",
                         f"{entry['sd']:.2f}", f"{entry['valid_actions']:.1%}", f"{entry['truncated']:.1%}",
                         f"{entry['turns']:.1f}", entry["lost"]])  # fmt: skip
    return {"headings": headings, "rows": rows, "caption": None}


def _aggregates(comparison: Comparison) -> dict[str, Any]:
    rows = []
    for label, one in zip(comparison.labels, comparison.evaluations, strict=True):
        totals = one.report["environments"]["aggregates"]
        rows.append([label, *(_interval(totals[key]) for key in AGGREGATES)])
    return {"headings": ["over all environments", *AGGREGATES.values()], "rows": rows, "caption": None}


def _limits(measure: Mapping[str, float]) -> tuple[float, float, float]:
    return measure["value"], measure["low"], measure["high"]


def _interval(measure: Mapping[str, float]) -> str:
    return f"{measure['value']:.1%} [{measure['low']:.1%}, {measure['high']:.1%}]"


def frontier_section(paths: Sequence[Path]) -> dict[str, Any] | None:
    """Return the frontier of the largest group of models on the same tasks; None where there is nothing to compare."""
    alike = [read_evaluations(group) for group in comparable(paths, "environments")]
    groups = [group for group in alike if len(contenders(group)) > 1]
    if not groups:
        return None
    everyone = max(groups, key=len)
    # From all models, not only the contenders: a model keeps its colour from chart to chart.
    colours = {one.label: colour for colour, one in enumerate(everyone)}
    comparison = Comparison(contenders(everyone))
    on = comparison.frontier(POSTERIOR)
    pairs_of = list(combinations(range(len(comparison.environments)), 2))[:PAIRS]
    # Pairs grow with the square of the environments, and nobody reads a page with fifty charts.
    charts = [_pair(comparison, colours, x, y, on) for x, y in pairs_of]
    probability = [[f"{value:.2f}" for value in row] for row in comparison.probability]
    for index, row in enumerate(probability):
        # The diagonal: no model dominates itself.
        row[index] = ""
    pairs = {
        "headings": ["P(row dominates column)", *comparison.labels],
        "rows": [[label, *row] for label, row in zip(comparison.labels, probability, strict=True)],
        "caption": f"Nowhere worse by more than {comparison.rope:g} and somewhere better by more, paired by task; each "
        "pair by itself.",
    }
    rules = {
        "headings": ["rule", *comparison.labels],
        "rows": [
            [rule, *("on the frontier" if label in comparison.frontier(rule) else "–" for label in comparison.labels)]
            for rule in (*RULES, POSTERIOR)
        ],
        "caption": "docs/evaluation.md says what each rule asks, and how often it is wrong.",
    }
    explanation = (
        f"Hollow: some model dominates it. All of these statements hold together with a posterior probability of at "
        f"least {SURE:.0%}. Crosses are the intervals of both scores."
    )
    legend = [{"name": label, "colour": colours[label]} for label in comparison.labels]
    return {"explanation": explanation, "legend": legend, "charts": charts, "tables": [pairs, rules]}


def _pair(comparison: Comparison, colours: Mapping[str, int], x: int, y: int, on: Sequence[str]) -> Any:
    side = comparison.sides
    pairs = []
    for index, label in enumerate(comparison.labels):
        note = "" if label in on else "(dominated)"
        both = [
            Dot(
                label,
                colours[label],
                side.mean[index, e],
                side.low[index, e],
                side.high[index, e],
                note,
                label not in on,
            )
            for e in (x, y)
        ]
        pairs.append((both[0], both[1]))
    names = comparison.environments
    return scatter(f"{names[x]} against {names[y]}", names[x], names[y], pairs)


def episode_groups(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the sample episodes of every model, one that succeeded and one that did not of each environment."""
    names = labels([read_scores(path) for path in paths])
    groups = []
    for name, path in zip(names, paths, strict=True):
        seen: set[tuple[str, bool]] = set()
        episodes = []
        for episode in read_examples(path):
            # One success and one failure of each environment are enough to see how a model plays.
            if (key := (episode.environment, episode.success)) not in seen:
                seen.add(key)
                episodes.append(_episode(episode))
        if episodes:
            groups.append({"title": name, "episodes": episodes})
    return groups


def _episode(episode: Episode) -> dict[str, Any]:
    opening = []
    for message in episode.messages:
        if message["role"] == "assistant":
            break
        opening.append({"role": message["role"], "content": _cut(str(message["content"]))})
    turns = [{**asdict(turn), "text": _cut(turn.text), "observation": _cut(turn.observation)} for turn in episode.turns]
    shown = {name: getattr(episode, name) for name in ("environment", "task_id", "success", "score", "truncated")}
    return {**shown, "opening": opening, "turns": turns}


def _cut(text: str) -> str:
    rest = len(text) - LONGEST
    return text if rest <= 0 else f"{text[:LONGEST]}… ({rest:,} more characters)"
