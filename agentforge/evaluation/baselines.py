"""The trivial strategies on the evaluation's own tasks: made once for a recipe, shown beside every model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from agentforge.artifacts import stage_directory, write_json
from agentforge.environments.base import EnvironmentFailed
from agentforge.errors import UserError
from agentforge.evaluation.environments import Chosen, identity, result_rows, settings_of, summaries
from agentforge.evaluation.results import RESULTS, results_table, write_results
from agentforge.evaluation.scripted import EXPERT, RANDOM, play_scripted
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.episodes import Episode

log = logging.getLogger(__name__)

BASELINES = "baselines.json"


def scripted_names(chosen: Sequence[Chosen]) -> list[str]:
    """Return the policies that need no model: the expert, and every environment's baselines."""
    return list(dict.fromkeys([EXPERT, RANDOM, *(name for one in chosen for name in one.environment.baselines)]))


def scripted_episodes(recipe: Recipe, chosen: Sequence[Chosen], strategy: str) -> dict[str, list[Episode]]:
    """Play a strategy on the tasks, and return each environment's episodes without those that broke.

    Raises:
        UserError: an environment does not know the strategy.
    """
    for one in chosen:
        if strategy != EXPERT and strategy not in one.environment.baselines:
            raise UserError(
                f"{one.name} has no baseline '{strategy}' (it has {', '.join(one.environment.baselines)}); "
                "choose others with evaluate.environments.names"
            )
    return {one.name: list(_play(recipe, one, strategy)) for one in chosen}


def _play(recipe: Recipe, one: Chosen, strategy: str) -> Iterator[Episode]:
    for task in one.tasks:
        for sample in range(settings_of(recipe).samples):
            try:
                yield play_scripted(one.environment, strategy, task, recipe.seed + sample)
            except EnvironmentFailed as error:
                log.warning("%s, task %d: %s; the episode is lost", one.name, task, error)


def baselines(recipe: Recipe, chosen: Sequence[Chosen]) -> dict[str, dict[str, Any]]:
    """Return each environment's baselines with their scores, playing them if ``-baselines`` is not up to date."""
    target = recipe.artifact("baselines")
    depends = {**identity(recipe, chosen), "confidence": recipe.evaluate.confidence}
    with stage_directory(target, stage="baselines", recipe=depends, replace=True) as work:
        if not work.done:
            scores, rows = _score(recipe, chosen)
            write_results(rows, work.path / RESULTS)
            write_json(work.path / BASELINES, scores)
    loaded: dict[str, dict[str, Any]] = json.loads((target / BASELINES).read_text(encoding="utf-8"))
    return loaded


def _score(recipe: Recipe, chosen: Sequence[Chosen]) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    scores: dict[str, dict[str, Any]] = {one.name: {} for one in chosen}
    rows: list[dict[str, Any]] = []
    for strategy in scripted_names(chosen):
        knowing = [one for one in chosen if strategy in one.environment.baselines]
        if not knowing:
            continue
        new = result_rows(scripted_episodes(recipe, knowing, strategy), knowing)
        for name, summary in summaries(results_table(new), knowing, recipe.evaluate.confidence).items():
            scores[name][strategy] = summary.as_json()
        rows += new
    return scores, rows
