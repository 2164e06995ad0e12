"""Playing the next rollout while the last one is trained on: both the server's GPUs and the trainer's are then busy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from agentforge.rollouts.episodes import Episode
from agentforge.rollouts.scheduler import Task

Play = Callable[[Any, Sequence[Task]], Sequence[Episode | None]]
"""Plays tasks with the trainer's policy; None where the environment broke."""


class Rollout(NamedTuple):
    """Tasks, their episodes, and the trainer's step whose weights played them."""

    tasks: list[Task]
    episodes: Sequence[Episode | None]
    step: int


class OneStepOff:
    """Has the next rollout played in a thread. Its episodes are those of the weights before the last update.

    How far that is from the policy that is trained is corrected like the rest of the difference between sampler and
    trainer: by the ratio of their probabilities, which is logged.

    Args:
        play: plays tasks.
    """

    def __init__(self, play: Play) -> None:
        self.play = play
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollout")
        self._ahead: tuple[list[str], Future[Rollout]] | None = None

    def begin(self, trainer: Any, prompts: Sequence[str], tasks: list[Task]) -> None:
        """Begin to play the rollout of these prompts with the weights that the sampler has now."""
        step = trainer.state.global_step
        future = self._thread.submit(lambda: Rollout(tasks, self.play(trainer, tasks), step))
        self._ahead = list(prompts), future

    def take(self, prompts: Sequence[str]) -> Rollout | None:
        """Return the rollout of these prompts, once it is played; None if it was not begun, as after a restart."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] != list(prompts):
            return None
        return ahead[1].result()

    def wait(self) -> None:
        """Wait until nothing is being played: weights must not change in the middle of an episode."""
        if self._ahead is not None:
            self._ahead[1].exception()  # it is raised where the rollout is taken

    def close(self) -> None:
        """End the thread, after what it plays."""
        self._thread.shutdown(cancel_futures=True)
