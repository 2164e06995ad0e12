"""The stage `collect`: episodes of a policy on training tasks, and those that pass the filters as rows to train on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from agentforge.artifacts import Workspace, stage_directory
from agentforge.environments.base import Environment
from agentforge.environments.splits import COUNTABLE, task_ids
from agentforge.errors import CheckRefused, UserError, did_you_mean
from agentforge.models.locate_model import ModelLocation, locate_model, model_inputs
from agentforge.progress import Progress
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.collected_rows import ROWS, write_rows
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episode_store import (
    EPISODES,
    hash_of_what_was_played,
    read_episodes,
    write_episodes,
)
from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.experts import Actor, Baseline, Expert
from agentforge.rollouts.play import play
from agentforge.rollouts.policies.base import Policy, Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.rollouts.scheduler import Task

log = logging.getLogger(__name__)

PART = 64
"""Episodes between two writes to disk; a killed run loses fewer than that."""


def collect(recipe: Recipe, replace: bool = False) -> Path:
    """Play `collect.episodes` episodes in each environment and keep those that reach `collect.min_score`.

    Only ids of the train split are played, each as often as it takes: again with other seeds where there are fewer
    tasks than episodes. A run that was stopped continues after the last episodes that it wrote.

    Args:
        recipe: its sections `collect`, `environments`, `rollouts` and `seed`.
        replace: make it again if it is there from another recipe.

    Returns:
        ``-episodes`` with episodes.parquet (all that were played) and rows.jsonl (what is trained on, as `data.mix`
        takes it).

    Raises:
        UserError: the recipe names no environments, or a policy that does not exist.
        CheckRefused: no episode was played to its end, or none passes the filters.
    """
    names = environment_names(recipe)
    with EnvironmentPool(recipe.environments) as pool:
        # Chosen before the directory is opened: a policy that does not exist must leave nothing behind.
        player = choose_player(recipe, {name: _borrowed(pool, name) for name in names})
        location = player if isinstance(player, ModelLocation) else None
        depends = {
            "collect": recipe.collect.model_dump(),
            "environments": {name: recipe.environments[name] for name in names},
            # How many are played at once, and on how many GPUs, changes the speed and not the episodes, so it does not
            # make the artefact stale.
            "rollouts": recipe.rollouts.model_dump(exclude={"batch_size", "vllm"}),
            "max_length": recipe.episode_length,
            "template": location.template if location else None,
            "seed": recipe.seed,
        }
        inputs = model_inputs(location) if location else {}
        target = recipe.artifact("episodes")
        with stage_directory(
            target,
            stage="collect",
            recipe=depends,
            inputs=inputs,
            resumable=True,
            worth_keeping=lambda partial: any(partial.glob("part-*.parquet")),
            blocks=_has_full_part,
            replace=replace,
        ) as work:
            if not work.done:
                # Opened only now: weights take long to load, and an artefact that is up to date does not need them.
                policy = open_policy(player, rollouts=recipe.rollouts) if isinstance(player, ModelLocation) else player
                tasks = [task for name in names for task in train_tasks(recipe, name, _borrowed(pool, name))]
                _make(recipe, pool, policy, tasks, work)
    return target


def _has_full_part(partial: Path) -> bool:
    """Tell whether a stopped run got as far as its first full part; fewer episodes are soon played again."""
    return any(sum(1 for _ in read_episodes(file)) >= PART for file in sorted(partial.glob("part-*.parquet")))


def _make(recipe: Recipe, pool: EnvironmentPool, policy: Policy | Actor, tasks: list[Task], work: Workspace) -> None:
    lost: Counter[str] = Counter()
    parts = Parts(work.path)
    # A task names its episode, so a run that was stopped needs no other record of what it has played.
    left = [task for task in tasks if task not in parts.episodes]
    rollouts = recipe.rollouts
    with Progress(f"collect {policy.label}", "episodes", len(tasks), len(tasks) - len(left)) as progress:

        def keep(task: Task, episode: Episode) -> None:
            parts.add(task, episode)
            progress.advance()

        def lose(task: Task, why: str) -> None:
            lost[task.environment] += 1
            progress.advance()

        with parts:
            play(
                policy,
                pool,
                left,
                sampling=Sampling(rollouts.max_new_tokens, rollouts.temperature, rollouts.top_p, recipe.seed),
                batch_size=rollouts.batch_size,
                max_length=recipe.episode_length,
                act=rollouts.act,
                on_episode=keep,
                on_failure=lose,
            )
    # In the order of the tasks, not in the one in which they ended: that depends on batch_size and on the machine.
    episodes = [parts.episodes[task] for task in tasks if task in parts.episodes]
    write_episodes(work.path / EPISODES, episodes)
    work.identities = {EPISODES: hash_of_what_was_played(work.path / EPISODES)}
    work.metrics = {"policy": policy.label} | write_rows(work.path / ROWS, episodes, recipe.collect.min_score, lost)
    # Only now: until the artefact's own file is complete, the parts are the only copy of the episodes.
    parts.remove()
    log.info("%s: %d episodes, %d rows", policy.label, len(episodes), work.metrics["rows"])
    if not work.metrics["rows"]:
        dropped = ", ".join(f"{reason}: {count}" for reason, count in work.metrics["dropped"].items())
        raise CheckRefused(
            f"none of {len(episodes)} episodes of {policy.label} was kept ({dropped}); lower collect.min_score, raise "
            "collect.episodes or take another collect.policy"
        )


class Parts:
    """The episodes played so far, written to disk every `PART` episodes and whenever the run ends.

    Attributes:
        episodes: by task, including those of an earlier run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = sorted(directory.glob("part-*.parquet"))
        self.episodes = {
            Task(episode.environment, episode.task_id, episode.seed): episode
            for file in self.files
            for episode in read_episodes(file)
        }
        self._unwritten: list[Episode] = []

    def add(self, task: Task, episode: Episode) -> None:
        self.episodes[task] = episode
        self._unwritten.append(episode)
        if len(self._unwritten) == PART:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # Ctrl-C and errors come this way too: a run that is stopped loses only the episodes that were still running.
        if self._unwritten:
            self._write()

    def remove(self) -> None:
        """Delete the files: their episodes are in the artefact."""
        for file in self.files:
            file.unlink()

    def _write(self) -> None:
        file = self.directory / f"part-{len(self.files):05d}.parquet"
        write_episodes(file, self._unwritten)
        self.files.append(file)
        self._unwritten = []


def choose_player(recipe: Recipe, environments: Mapping[str, Environment]) -> ModelLocation | Actor:
    """Return the player that `collect.policy` names: an actor, or the location of a model.

    Raises:
        UserError: an environment has no expert or no such baseline, or there is no such model.
    """
    wanted = recipe.collect.policy
    if wanted == "expert":
        for name, environment in environments.items():
            # The base class's `expert` only says that there is none; an environment that has one overrides it.
            if type(environment).expert is Environment.expert:
                raise UserError(f"{name} has no expert: leave it out of collect.environments, or set collect.policy")
        return Expert()
    knowing = [name for name, environment in environments.items() if wanted in environment.baselines]
    if not knowing:
        return locate_model(recipe, wanted)
    if missing := [name for name in environments if name not in knowing]:
        raise UserError(
            f"collect.policy: {missing[0]} has no baseline '{wanted}'; leave it out of collect.environments"
        )
    return Baseline(wanted)


def environment_names(recipe: Recipe) -> list[str]:
    """Return the names in `environments` that are collected from.

    Raises:
        UserError: there are none, or one of `collect.environments` is not among them.
    """
    known = list(recipe.environments)
    names = recipe.collect.environments or known
    if not names:
        raise UserError(f"{recipe.full_name} has no environments to collect from: add them under `environments`")
    for name in names:
        if name not in known:
            raise UserError(
                f"collect.environments: '{name}' is not under `environments`"
                f"{did_you_mean(name, known) or '; there are: ' + ', '.join(known)}"
            )
    return list(dict.fromkeys(names))


def train_tasks(recipe: Recipe, name: str, environment: Environment) -> list[Task]:
    """Return the tasks to play in one environment: ids of the train split, in an order set by the seed."""
    wanted = recipe.collect.episodes
    listed = None if environment.tasks <= COUNTABLE else wanted
    ids = task_ids(environment, "train", listed, recipe.seed)
    if not ids:
        raise UserError(f"{name} has no training tasks with these options")
    if len(ids) < wanted:
        log.info("%s has %d training tasks: they are played again with other seeds", name, len(ids))
    # Three tasks and five episodes from seed 0: tasks 0 1 2 0 1, with the seeds 0 0 0 1 1.
    return [Task(name, ids[i % len(ids)], recipe.seed + i // len(ids)) for i in range(wanted)]


def _borrowed(pool: EnvironmentPool, name: str) -> Environment:
    """Return an environment to ask about its tasks; it stays in the pool, and the first episode plays in it."""
    environment = pool.take(name)
    pool.give_back(name, environment)
    return environment
