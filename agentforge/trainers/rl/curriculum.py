"""Which task a run plays next: each environment in turn, the train split only, harder ones as they are mastered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

from agentforge.environments.base import Environment
from agentforge.environments.splits import task_ids
from agentforge.recipe.schema import Curriculum
from agentforge.rollouts.scheduler import Task

# Ids of an environment with endless tasks that a curriculum sorts by difficulty.
CATALOGUE = 5_000
# Up to so many tasks all ids of the split are used; above, as many as the run can play.
ENUMERATED = 100_000


class TaskStream:
    """Tasks by slot: slot `i` is the i-th of the run, the same whoever asks, and again after a restart.

    Args:
        environments: by their name in the recipe; only asked for their tasks, never played.
        seed: of the order.
        slots: how many there will be.
        curriculum: none: all difficulties from the start.
    """

    def __init__(
        self, environments: Mapping[str, Environment], *, seed: int, slots: int, curriculum: Curriculum | None
    ) -> None:
        self.names = list(environments)
        self.curriculum = curriculum
        self._seed = seed
        each = -(-slots // len(self.names))
        self._ids = {name: self._train_ids(environment, each) for name, environment in environments.items()}
        self._levels: dict[str, dict[int, list[int]]] = {}
        self._reached: dict[str, int] = {}
        self._recent: dict[str, list[bool]] = defaultdict(list)
        if curriculum is not None:
            for name, environment in environments.items():
                self._levels[name] = _by_difficulty(environment, self._ids[name])
                self._reached[name] = sum(level <= curriculum.start for level in self._levels[name]) or 1

    def _train_ids(self, environment: Environment, wanted: int) -> list[int]:
        if environment.tasks <= ENUMERATED:
            return task_ids(environment, "train", seed=self._seed)
        count = CATALOGUE if self.curriculum is not None else min(wanted, ENUMERATED)
        return task_ids(environment, "train", count, seed=self._seed)

    def task(self, slot: int) -> Task:
        """Return the task of a slot; with a curriculum it depends on what is mastered by then."""
        name = self.names[slot % len(self.names)]
        turn = slot // len(self.names)
        ids = self._ids[name]
        if self.curriculum is None:
            return Task(name, ids[turn % len(ids)], self._seed + slot)
        draw = Random(f"{self._seed}/{slot}")
        levels = list(self._levels[name].values())[: self._reached[name]]
        # half of the newest level, so that it is not lost among the many easy ones, half of those before it
        known = [task for level in levels[:-1] for task in level]
        pool = known if known and draw.random() < 0.5 else levels[-1]
        return Task(name, draw.choice(pool), self._seed + slot)

    def record(self, results: Iterable[tuple[str, int, bool]]) -> None:
        """Learn how tasks went: name, task id and success; the newest level's rate decides on the next."""
        if self.curriculum is None:
            return
        for name, task_id, success in results:
            levels = list(self._levels[name].values())
            reached = self._reached[name]
            if task_id not in levels[reached - 1] or reached == len(levels):
                continue
            recent = self._recent[name]
            recent.append(success)
            del recent[: -self.curriculum.window]
            if len(recent) == self.curriculum.window and sum(recent) / len(recent) >= self.curriculum.threshold:
                self._reached[name] += 1
                recent.clear()

    def levels(self) -> dict[str, int]:
        """Return the highest difficulty that is played now, by environment; empty without a curriculum."""
        return {name: list(self._levels[name])[reached - 1] for name, reached in self._reached.items()}

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON."""
        return {"reached": self._reached, "recent": dict(self._recent)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._reached = dict(state["reached"])
        self._recent = defaultdict(list, state["recent"])


def _by_difficulty(environment: Environment, ids: list[int]) -> dict[int, list[int]]:
    levels: dict[int, list[int]] = defaultdict(list)
    for task_id in ids:
        levels[environment.difficulty(task_id)].append(task_id)
    return dict(sorted(levels.items()))
