"""Episodes in progress: which wait, which are played, which have ended, which were lost with their environment."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agentforge.environments.base import Environment, EnvironmentFailed, Step
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episodes import Episode, Turn
from agentforge.rollouts.transcript import Dialogue

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Times an episode is begun when its environment fails, each time in a new one."""


class Task(NamedTuple):
    """One episode to play.

    Attributes:
        environment: its name in the pool.
        seed: of the environment.
        sample: episodes of the same task and seed differ by it in what the policy draws.
    """

    environment: str
    task_id: int
    seed: int = 0
    sample: int = 0


OnEpisode = Callable[[Task, Episode], None]
OnFailure = Callable[[Task, str], None]


@dataclass
class Game:
    """An episode in progress.

    Attributes:
        number: of its task.
        attempt: 1, or 2 if its environment has failed before.
        observation: what the environment said first.
        last: step.
        cut: it got too long, or its player gave up.
    """

    task: Task
    number: int
    attempt: int
    environment: Environment
    observation: str
    turns: list[Turn] = field(default_factory=list)
    last: Step | None = None
    cut: bool = False
    started: float = field(default_factory=time.perf_counter)

    def step(self, text: str, start: int = 0, end: int = 0) -> Step:
        """Let the environment take the turn ``text``, whose tokens are ``start`` to ``end``.

        Raises:
            EnvironmentFailed: it broke.
        """
        step = self.last = self.environment.step(text)
        info = step.info
        self.turns.append(Turn(start, end, text, step.observation, step.reward, info["valid_action"], info["score"]))
        return step

    def episode(self, dialogue: Dialogue, policy: str) -> Episode:
        """Return the finished episode of the policy with this label."""
        last = self.last
        return Episode(
            environment=self.task.environment,
            task_id=self.task.task_id,
            seed=self.task.seed,
            policy=policy,
            prompt_ids=dialogue.prompt_ids,
            token_ids=dialogue.token_ids,
            mask=dialogue.mask,
            logprobs=dialogue.logprobs,
            turns=self.turns,
            success=last is not None and last.info["success"],
            score=0.0 if last is None else last.info["score"],
            terminated=last is not None and last.terminated,
            truncated=self.cut or (last is not None and last.truncated),
            messages=dialogue.messages,
            tools=dialogue.tools,
            seconds=time.perf_counter() - self.started,
        )


class Table:
    """Begins episodes and ends them; one whose environment breaks is begun once more in a new one.

    Attributes:
        episodes: those that ended, by the number of their task.
        problem: why the last environment failed.
    """

    def __init__(
        self,
        pool: EnvironmentPool,
        tasks: Sequence[Task],
        on_episode: OnEpisode | None,
        on_failure: OnFailure | None,
    ) -> None:
        self.pool = pool
        self.on_episode = on_episode
        self.on_failure = on_failure
        self.episodes: dict[int, Episode] = {}
        self.problem = ""
        self._waiting = deque((number, task, 1) for number, task in enumerate(tasks))

    def begin(self) -> Game | None:
        """Begin the next episode, its observation unanswered; None: none waits."""
        while self._waiting:
            number, task, attempt = self._waiting.popleft()
            environment = self.pool.take(task.environment)
            try:
                observation = environment.reset(task.seed, task.task_id)
            except EnvironmentFailed as error:
                self._lost(number, task, attempt, environment, error)
                continue
            return Game(task, number, attempt, environment, observation)
        return None

    def end(self, game: Game, dialogue: Dialogue, policy: str) -> None:
        """Keep an episode of the policy with this label."""
        self.pool.give_back(game.task.environment, game.environment)
        episode = self.episodes[game.number] = game.episode(dialogue, policy)
        if self.on_episode is not None:
            self.on_episode(game.task, episode)

    def lose(self, game: Game, error: EnvironmentFailed) -> None:
        """Drop an episode whose environment broke."""
        self._lost(game.number, game.task, game.attempt, game.environment, error)

    def _lost(self, number: int, task: Task, attempt: int, environment: Environment, error: EnvironmentFailed) -> None:
        self.pool.drop(environment)
        self.problem = str(error)
        log.warning("%s, task %d: the environment failed: %s", task.environment, task.task_id, error)
        if attempt < ATTEMPTS:
            self._waiting.appendleft((number, task, attempt + 1))
        elif self.on_failure is not None:
            self.on_failure(task, self.problem)
