"""The queue of episodes: where a task is, what a slot and an environment that broke mean for the others."""

from __future__ import annotations

from functools import partial

from agentforge.environments.base import EnvironmentFailed
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.scheduler import EpisodeQueue, Task
from agentforge.rollouts.transcript import Transcript
from tests.rollouts.players import TOYS

BROKEN = EnvironmentFailed("out of order")


def queue_of(pool: EnvironmentPool, tasks: list[Task]) -> EpisodeQueue[Transcript]:
    return EpisodeQueue(pool, tasks, partial(Transcript, act="text"), "nobody")


def test_a_finished_episode_frees_its_slot_and_its_environment() -> None:
    tasks = [Task("add", task) for task in range(4)]
    with EnvironmentPool(TOYS) as pool:
        queue = queue_of(pool, tasks)
        first, second = queue.start_next(0), queue.start_next(1)
        assert first is not None and second is not None and first.environment is not second.environment
        queue.finish(1)
        third = queue.start_next(1)
        assert third is not None and third.environment is second.environment
        assert {slot: running.task for slot, running in queue.running.items()} == {0: tasks[0], 1: tasks[2]}
        queue.finish(1)
        queue.finish(0)
        assert queue.start_next(0) is not None and queue.start_next(1) is None
        queue.finish(0)
        assert [episode.task_id for episode in queue.results()] == [0, 1, 2, 3]


def test_a_task_is_tried_again_before_all_others_and_then_lost() -> None:
    tasks = [Task("add", task) for task in range(3)]
    with EnvironmentPool(TOYS) as pool:
        queue = queue_of(pool, tasks)
        broken = queue.start_next(0)
        queue.fail(0, BROKEN)
        again = queue.start_next(0)
        assert broken is not None and again is not None
        assert (again.task, again.attempt) == (tasks[0], 2) and again.environment is not broken.environment
        queue.fail(0, BROKEN)
        assert queue.lost == {0: "out of order"} and not queue.running
        following = queue.start_next(0)
        assert following is not None and following.task == tasks[1]
        queue.finish(0)
        assert [episode.task_id for episode in queue.results()] == [1]
