"""A policy on the evaluation's tasks: its episodes, and what of them stands in scores.json."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agentforge.artifacts import Workspace
from agentforge.environments.base import EnvironmentFailed, Step
from agentforge.evaluation.baselines import baselines, scripted_episodes
from agentforge.evaluation.environments import Chosen, choose, result_rows, score_table, settings_of
from agentforge.evaluation.examples import EPISODES, write_examples
from agentforge.evaluation.results import RESULTS, results_table, write_results
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.episodes import Episode, Turn
from agentforge.rollouts.policies import Policy, Sampling

log = logging.getLogger(__name__)


@contextmanager
def opened(recipe: Recipe) -> Iterator[list[Chosen]]:
    """Make the environments of `evaluate.environments` (none: an empty list), and close them at the end."""
    chosen = [] if recipe.evaluate.environments is None else choose(recipe)
    try:
        yield chosen
    finally:
        for one in chosen:
            one.environment.close()


def decoding(recipe: Recipe) -> dict[str, Any]:
    """Return how a model writes its turns, as it stands in scores.json."""
    settings = settings_of(recipe)
    return {
        **recipe.rollouts.model_dump(include={"max_new_tokens", "top_p", "act"}),
        "max_length": recipe.rollouts.max_length or recipe.data.max_length,
        "temperature": settings.temperature,
        "samples": settings.samples,
        "seed": recipe.seed,
    }


def evaluate_environments(
    recipe: Recipe, chosen: Sequence[Chosen], policy: Policy | str, work: Workspace
) -> dict[str, Any]:
    """Play the tasks, write the episodes' results into ``work``, and return the part of scores.json.

    Args:
        policy: a model, or the name of a scripted strategy.
    """
    trivial = baselines(recipe, chosen)
    started = time.perf_counter()
    if isinstance(policy, str):
        played = scripted_episodes(recipe, chosen, policy)
    else:
        played = model_episodes(recipe, chosen, policy)
    seconds = time.perf_counter() - started
    rows = result_rows(played, chosen)
    write_results(rows, work.path / RESULTS)
    write_examples(played, work.path / EPISODES)
    scores, totals = score_table(results_table(rows), chosen, recipe)
    for name, entry in scores.items():
        entry["baselines"] = trivial[name]
        entry["chance"] = trivial[name].get("random", {}).get(entry["headline"], {}).get("value")
    new_tokens = sum(row["new_tokens"] for row in rows)
    work.metrics.update({name: total["value"] for name, total in totals.items()}, episodes=len(rows))
    return {
        "environments": {
            "scores": scores,
            "aggregates": totals,
            "confidence": recipe.evaluate.confidence,
            "decoding": decoding(recipe),
            "episodes": len(rows),
            "new_tokens": new_tokens,
            "seconds": round(seconds, 2),
            "tokens_per_second": round(new_tokens / max(seconds, 1e-9), 1),
            "dollars": round(seconds / 3600 * dollars_per_hour(recipe), 4),
        }
    }


def dollars_per_hour(recipe: Recipe) -> float:
    """Return what the recipe's machine costs."""
    hardware = load_hardware(recipe.hardware)
    return hardware.dollars_per_gpu_hour * hardware.gpus


def model_episodes(recipe: Recipe, chosen: Sequence[Chosen], policy: Policy) -> dict[str, list[Episode]]:
    """Play a model on the tasks, and return each environment's episodes without those that broke."""
    return {one.name: list(_play(recipe, one, policy)) for one in chosen}


def _play(recipe: Recipe, one: Chosen, policy: Policy) -> Iterator[Episode]:
    settings = settings_of(recipe)
    for task in one.tasks:
        for sample in range(settings.samples):
            seed = recipe.seed + sample
            sampling = Sampling(recipe.rollouts.max_new_tokens, settings.temperature, recipe.rollouts.top_p, seed)
            try:
                yield _episode(policy, one, task, seed, sampling)
            except EnvironmentFailed as error:
                log.warning("%s, task %d: %s; the episode is lost", one.name, task, error)


def _episode(policy: Policy, one: Chosen, task: int, seed: int, sampling: Sampling) -> Episode:
    started = time.perf_counter()
    environment = one.environment
    observation = environment.reset(seed, task)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": environment.instructions},
        {"role": "user", "content": observation},
    ]
    prompt = policy.encode(messages)
    ids: list[int] = []
    mask: list[int] = []
    turns: list[Turn] = []
    step: Step | None = None
    while step is None or not (step.terminated or step.truncated):
        completion = policy.complete([policy.encode(messages)], sampling)[0]
        text = policy.decode(completion.token_ids[:-1] if completion.stopped else completion.token_ids)
        step = environment.step(text)
        ids += completion.token_ids
        mask += [1] * len(completion.token_ids)
        turns.append(Turn(0, 0, text, step.observation, step.reward, step.info["valid_action"], step.info["score"]))
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": step.observation}]
    return Episode(
        environment.id,
        task,
        seed,
        policy.label,
        prompt,
        ids,
        mask,
        [0.0] * len(ids),
        turns,
        step.info["success"],
        step.info["score"],
        step.terminated,
        step.truncated,
        messages,
        [],
        time.perf_counter() - started,
    )
