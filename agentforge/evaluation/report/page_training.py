"""Learning curves out of `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.evaluation.report.svg import Series, line_chart
from agentforge.recipe.schema import Recipe
from agentforge.training_log import METRICS, read_metrics

# Charts in the order of their worth: title, and the keys drawn in one, as TRL and our trainers log them; ``a/*`` is
# every key that begins with ``a/``.
CHARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("reward", ("reward", "eval_reward")),
    ("success rate", ("success", "success/*")),
    ("loss", ("loss", "eval_loss")),
    ("loss at each width", ("loss/width/*",)),
    ("loss at each exit", ("loss/exit/*",)),
    ("agreement of each exit with full depth", ("agreement/exit/*",)),
    ("valid actions", ("valid_actions",)),
    ("KL to the reference", ("kl",)),
    ("entropy", ("entropy",)),
    ("tokens of a turn", ("turn_tokens",)),
    ("tokens of an episode", ("completions/mean_length",)),
    ("value loss", ("value_loss",)),
    ("explained variance of the values", ("explained_variance",)),
    ("difficulty", ("level/*",)),
    ("learning rate", ("learning_rate",)),
)
NO_CURVES = frozenset({"step", "epoch", "tokens", "remaining_seconds", "num_tokens", "eval_runtime"})


def metrics_file(recipe: Recipe) -> Path:
    """Return where a recipe's training logs: in its artefact, or in what a running or stopped training has so far."""
    finished = recipe.trained / METRICS
    return finished if finished.is_file() else recipe.trained.with_name(f".{recipe.trained.name}.partial") / METRICS


def training_section(recipe: Recipe) -> dict[str, Any] | None:
    """Return the charts of a recipe's training; None if it has logged nothing."""
    lines = read_metrics(metrics_file(recipe))
    if not lines:
        return None
    curves = curves_of(lines)
    charts, used = [], set()
    for title, patterns in CHARTS:
        keys = [key for pattern in patterns for key in curves if key == pattern or _under(key, pattern)]
        used.update(keys)
        if keys:
            series = [Series(key, colour, curves[key]) for colour, key in enumerate(keys, start=1)]
            legend = [{"name": one.name, "colour": one.colour} for one in series] if len(series) > 1 else []
            charts.append({"title": title, "legend": legend, "svg": line_chart(title, series)})
    others = [
        {"title": key, "svg": line_chart(key, [Series(key, 1, points)])}
        for key, points in curves.items()
        if key not in used
    ]
    return {"title": recipe.full_name, "note": _note(recipe, lines), "charts": charts, "others": others}


def _under(key: str, pattern: str) -> bool:
    return pattern.endswith("/*") and key.startswith(pattern[:-1])


def curves_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return every number that was logged at two steps or more, as (step, value)."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for key, value in line.items():
            if key not in NO_CURVES and isinstance(value, int | float) and not isinstance(value, bool):
                curves.setdefault(key, []).append((float(line["step"]), float(value)))
    return {key: points for key, points in curves.items() if len(points) > 1}


def _note(recipe: Recipe, lines: Sequence[Mapping[str, Any]]) -> str:
    steps = f"{recipe.train.method}, {int(lines[-1]['step'])} steps"
    if not (recipe.trained / MANIFEST).is_file():
        return f"{steps} so far; not finished"
    metrics = read_manifest(recipe.trained)["metrics"]
    trained = metrics.get("trainable_parameters")
    return steps + (f", {trained:,} parameters trained" if trained else "")
