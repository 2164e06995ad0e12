"""A policy on the evaluation's tasks: its episodes, and what of them stands in scores.json."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentforge.artifacts import Workspace
from agentforge.evaluation.comparable import template_of
from agentforge.evaluation.tasks.episode_results import RESULTS, results_table, write_results
from agentforge.evaluation.tasks.reserved_tasks import (
    Played,
    TaskSelection,
    choose,
    result_rows,
    score_table,
    settings_of,
)
from agentforge.evaluation.tasks.sample_episodes import write_examples
from agentforge.progress import Progress
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episode_store import EPISODES
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.experts import Actor
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Conversation, Policy, Sampling
from agentforge.rollouts.scheduler import Task
from agentforge.rollouts.transcript import Transcript


@contextmanager
def opened(recipe: Recipe) -> Iterator[TaskSelection]:
    """Make the environments of `evaluate.environments` (none: an empty selection), and close them at the end."""
    with EnvironmentPool(recipe.environments) as pool:
        yield TaskSelection([] if recipe.evaluate.environments is None else choose(recipe, pool), pool)


def decoding(recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe says of how a model writes its turns."""
    settings = settings_of(recipe)
    return {
        **recipe.rollouts.model_dump(include={"max_new_tokens", "top_p", "act"}),
        "max_length": recipe.episode_length,
        "temperature": settings.temperature,
        "samples": settings.samples,
        "seed": recipe.seed,
    }


def answering(recipe: Recipe, selection: TaskSelection, policy: Policy | Actor) -> dict[str, Any]:
    """Return how a policy writes its turns, as it stands in scores.json: two of them are compared where it is equal."""
    found = {**decoding(recipe), "max_turns": {one.name: one.environment.max_turns for one in selection.chosen}}
    if isinstance(policy, Policy):
        openings = [Transcript(one.environment, "", recipe.rollouts.act) for one in selection.chosen]
        found["template"] = template_of(policy, [Conversation(one.messages, one.tools) for one in openings])
    return found


def play_tasks(recipe: Recipe, selection: TaskSelection, policy: Policy | Actor) -> list[Played]:
    """Play every sample of every task; those whose environment broke are not among the result.

    Raises:
        CheckRefused: every episode was lost.
    """
    settings, rollouts = settings_of(recipe), recipe.rollouts
    tasks = [
        Task(one.name, task, recipe.seed, sample)
        for one in selection.chosen
        for task in one.tasks
        for sample in range(settings.samples)
    ]
    played: list[Played] = []
    with Progress(f"evaluate {policy.label}", "episodes", len(tasks)) as progress:

        def keep(task: Task, episode: Episode) -> None:
            played.append((task, episode))
            progress.advance()

        play(
            policy,
            selection.pool,
            tasks,
            sampling=Sampling(rollouts.max_new_tokens, settings.temperature, rollouts.top_p, recipe.seed),
            batch_size=rollouts.batch_size,
            max_length=recipe.episode_length,
            act=rollouts.act,
            on_episode=keep,
        )
    # Episodes finish in any order; the table must not depend on the batch size.
    order = {task: number for number, task in enumerate(tasks)}
    return sorted(played, key=lambda one: order[one[0]])


def evaluate_environments(
    recipe: Recipe,
    selection: TaskSelection,
    policy: Policy | Actor,
    trivial: dict[str, dict[str, Any]],
    work: Workspace,
) -> dict[str, Any]:
    """Play the tasks, write the episodes' results into ``work``, and return the part of scores.json.

    Args:
        policy: a model, the expert or a trivial strategy.
        trivial: scores of the trivial strategies, from `baselines`.
    """
    started = time.perf_counter()
    played = play_tasks(recipe, selection, policy)
    seconds = time.perf_counter() - started
    rows = result_rows(played, selection.chosen)
    write_results(rows, work.path / RESULTS)
    write_examples([episode for _, episode in played], work.path / EPISODES)
    scores, totals = score_table(results_table(rows), selection.chosen, recipe)
    for one in selection.chosen:
        _set_beside(scores[one.name], trivial[one.name])
    new_tokens = sum(row["new_tokens"] for row in rows)
    work.metrics.update({name: total["value"] for name, total in totals.items()}, episodes=len(rows))
    return {
        "environments": {
            "scores": scores,
            "aggregates": totals,
            "confidence": recipe.evaluate.confidence,
            "decoding": answering(recipe, selection, policy),
            "episodes": len(rows),
            "new_tokens": new_tokens,
            "seconds": round(seconds, 2),
            "tokens_per_second": round(new_tokens / max(seconds, 1e-9), 1),
            # Playing time only: loading the model is not counted.
            "dollars": round(seconds / 3600 * load_hardware(recipe.hardware).dollars_per_hour, 4),
        }
    }


def _set_beside(entry: dict[str, Any], trivial: dict[str, Any]) -> None:
    entry["baselines"] = trivial
    # Chance in the measure that the environment is judged by: success rate, or the mean of a graded score.
    random = trivial.get("random")
    entry["chance"] = random[entry["headline"]]["value"] if random else None
