"""Reserved tasks of the recipe's environments: which they are, who plays them, and the scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from agentforge.artifacts import hash_json
from agentforge.environments.base import Environment
from agentforge.environments.splits import COUNTABLE, task_ids
from agentforge.errors import CheckRefused, UserError, did_you_mean
from agentforge.evaluation.statistics.policy_summary import Summary, aggregate, summarise
from agentforge.evaluation.tasks.episode_results import columns, environment_rows, result_row
from agentforge.recipe.schema import Environments, Recipe
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.scheduler import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """An environment and the tasks of it that are played.

    Attributes:
        name: in the recipe.
        environment: made with the recipe's options.
        tasks: reserved ids; the same for every model.
    """

    name: str
    options: dict[str, Any]
    environment: Environment
    tasks: list[int]

    def as_json(self) -> dict[str, Any]:
        """Return what decides the episodes."""
        return {"name": self.name, "id": self.environment.id, "options": self.options, "tasks": self.tasks}

    def asked(self, seed: int) -> str:
        """Return the hash of what is asked; how many turns there are to answer belongs to the decoding."""
        options = {name: value for name, value in self.options.items() if name != "max_turns"}
        return hash_json({**self.as_json(), "options": options, "seed": seed})


@dataclass(frozen=True)
class TaskSelection:
    """The environments that are evaluated in, and where they are made."""

    chosen: list[Chosen]
    pool: EnvironmentPool


Played = tuple[Task, Episode]


def choose(recipe: Recipe, pool: EnvironmentPool) -> list[Chosen]:
    """Return the environments that `evaluate.environments` names, each with its reserved tasks.

    Raises:
        UserError: there are none, or one is unknown or has too few tasks.
    """
    settings = settings_of(recipe)
    names = list(recipe.environments) if settings.names is None else settings.names
    for name in names:
        if name not in recipe.environments:
            known = list(recipe.environments)
            raise UserError(
                f"evaluate.environments.names: '{name}' is not under `environments`"
                f"{did_you_mean(name, known) or '; there are: ' + (', '.join(known) or 'none')}"
            )
    if not names:
        raise UserError(f"{recipe.full_name} has no environments to evaluate in; name some under `environments`")
    if settings.samples > 1 and settings.temperature == 0:
        raise UserError(
            "evaluate.environments.samples: greedy decoding plays every sample of a task alike; "
            "set evaluate.environments.temperature above 0, or samples to 1"
        )
    return [_chosen(recipe, settings, name, pool) for name in dict.fromkeys(names)]


def _chosen(recipe: Recipe, settings: Environments, name: str, pool: EnvironmentPool) -> Chosen:
    environment = pool.take(name)
    # If the tasks can be listed, take what there is, even if that is fewer; if there are too many to list, draw only as
    # many as are wanted.
    listed = None if environment.tasks <= COUNTABLE else settings.tasks
    tasks = task_ids(environment, "eval", listed, recipe.seed)[: settings.tasks]
    if not tasks:
        raise UserError(f"{name} has no reserved tasks with these options, so there is nothing to evaluate on")
    if len(tasks) < settings.tasks:
        log.info("%s has %d reserved tasks: all of them are played", name, len(tasks))
    # Making an environment may start a server or load a table, so this one is kept for play.
    pool.give_back(name, environment)
    return Chosen(name, recipe.environments[name], environment, tasks)


def settings_of(recipe: Recipe) -> Environments:
    """Return `evaluate.environments`; only called where it is set."""
    assert recipe.evaluate.environments is not None
    return recipe.evaluate.environments


def identity(recipe: Recipe, chosen: Sequence[Chosen]) -> dict[str, Any]:
    """Return what the results of any policy depend on beside the policy."""
    settings = settings_of(recipe)
    return {
        "environments": [one.as_json() for one in chosen],
        "samples": settings.samples,
        "seed": recipe.seed,
    }


def result_rows(played: Sequence[Played], chosen: Sequence[Chosen]) -> list[dict[str, Any]]:
    """Return the episodes' results in their order."""
    environments = {one.name: one.environment for one in chosen}
    return [
        result_row(task, episode, environments[task.environment].difficulty(task.task_id)) for task, episode in played
    ]


def summaries(table: pa.Table, chosen: Sequence[Chosen], confidence: float) -> dict[str, Summary]:
    """Return each environment's summary.

    Raises:
        CheckRefused: an environment has not a single result: every episode of it was lost.
    """
    found = {}
    for one in chosen:
        scores, successes, tasks = columns(environment_rows(table, one.name), "score", "success", "task_id")
        if not len(scores):
            raise CheckRefused(f"{one.name}: every episode was lost; is its server or its extra working?")
        found[one.name] = summarise(scores, successes.astype(float), tasks, confidence, one.environment.graded)
    return found


def score_table(table: pa.Table, chosen: Sequence[Chosen], recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores of each environment, and the aggregates over them, as they stand in scores.json."""
    confidence, samples = recipe.evaluate.confidence, settings_of(recipe).samples
    found = summaries(table, chosen, confidence)
    scores = {}
    for one in chosen:
        rows = environment_rows(table, one.name)
        scores[one.name] = {
            "id": one.environment.id,
            "hash": one.asked(recipe.seed),
            **found[one.name].as_json(),
            # An episode whose environment broke is not the model's failure: it is counted here and nowhere else.
            "lost": len(one.tasks) * samples - len(rows),
            **_conduct(rows),
        }
    totals = {name: measure.as_json() for name, measure in aggregate(list(found.values()), confidence).items()}
    return scores, totals


def _conduct(rows: pa.Table) -> dict[str, Any]:
    """How the policy behaved: shares, means and sums over the episodes of one environment."""
    turns, valid, truncated, new_tokens, seconds = (
        values.astype(float) for values in columns(rows, "turns", "valid_turns", "truncated", "new_tokens", "seconds")
    )
    return {
        # Over turns, not as a mean over episodes, in which one turn would weigh as much as fifty.
        "valid_actions": round(float(valid.sum() / max(1.0, turns.sum())), 6),
        "truncated": round(float(truncated.mean()), 6),
        "turns": round(float(turns.mean()), 3),
        "new_tokens": int(new_tokens.sum()),
        "seconds": round(float(seconds.sum()), 3),
    }
