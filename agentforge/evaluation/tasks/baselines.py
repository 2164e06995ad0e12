"""The trivial strategies on the evaluation's own tasks: made once for a recipe, shown beside every model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentforge.artifacts import stage_directory, write_json
from agentforge.errors import UserError
from agentforge.evaluation.tasks.episode_results import RESULTS, results_table, write_results
from agentforge.evaluation.tasks.reserved_tasks import Chosen, TaskSelection, identity, result_rows, summaries
from agentforge.evaluation.tasks.score_policy import play_tasks
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.experts import Actor, Baseline, Expert

BASELINES = "baselines.json"
EXPERT = "expert"
RANDOM = "random"


def strategies(chosen: Sequence[Chosen]) -> list[str]:
    """Return the names of all trivial strategies that some environment knows, ``random`` first."""
    return list(dict.fromkeys([RANDOM, *(name for one in chosen for name in one.environment.baselines)]))


def scripted_policy(chosen: Sequence[Chosen], name: str | None) -> Actor | None:
    """Return the expert or the trivial strategy of that name; None if the name means a model.

    Raises:
        UserError: an environment does not know the strategy.
    """
    if name == EXPERT:
        return Expert()
    if name is None or name not in strategies(chosen):
        return None
    for one in chosen:
        if name not in one.environment.baselines:
            raise UserError(
                f"{one.name} has no baseline '{name}' (it has {', '.join(one.environment.baselines) or 'none'}); "
                "choose others with evaluate.environments.names"
            )
    return Baseline(name)


def baselines(recipe: Recipe, selection: TaskSelection) -> dict[str, dict[str, Any]]:
    """Return each environment's baselines with their scores, playing them if ``-baselines`` is not up to date."""
    target = recipe.artifact("baselines")
    # No model is among them: all models of a recipe are shown beside the same strategies, played once.
    depends = {**identity(recipe, selection.chosen), "confidence": recipe.evaluate.confidence}
    with stage_directory(target, stage="baselines", recipe=depends, replace=True) as work:
        if not work.done:
            scores, rows = _play(recipe, selection)
            write_results(rows, work.path / RESULTS)
            write_json(work.path / BASELINES, scores)
    loaded: dict[str, dict[str, Any]] = json.loads((target / BASELINES).read_text(encoding="utf-8"))
    return loaded


def _play(recipe: Recipe, selection: TaskSelection) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    scores: dict[str, dict[str, Any]] = {one.name: {} for one in selection.chosen}
    rows: list[dict[str, Any]] = []
    for strategy in strategies(selection.chosen):
        # Not every environment knows every strategy; those that do not know this one sit it out.
        knowing = [one for one in selection.chosen if strategy in one.environment.baselines]
        if not knowing:
            continue
        played = play_tasks(recipe, TaskSelection(knowing, selection.pool), Baseline(strategy))
        new = result_rows(played, knowing)
        for name, summary in summaries(results_table(new), knowing, recipe.evaluate.confidence).items():
            scores[name][strategy] = summary.as_json()
        rows += new
    return scores, rows
