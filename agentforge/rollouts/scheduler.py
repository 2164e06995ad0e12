"""The scheduler of rollouts: which tasks wait, which run in which slot, which have ended, which were lost.

A slot is room for one running episode: a row of a decoder's batch, or the single slot of a player without a model.
"""

# How tasks flow. Every task is in exactly one of four places:
#
#     waiting --start_next--> running[slot] --finish--> finished[index]
#        ^                       |
#        +--------fail-----------+--fail, for the second time--> lost[index]
#
# An environment is taken from the pool only when its episode starts, and goes back when the episode ends. So the pool
# makes as many of each kind as ever run at once, however many tasks there are: some need a server, or seconds to start.
#
# If an environment breaks, only its own episode suffers. The pool closes the broken environment, since nobody knows its
# state, and the task goes back to the front of the queue to be played from the beginning in another one. Where that one
# breaks too, the task is lost: counted and reported, while the others go on.
#
# Episodes end at different times: a game may take two turns or thirty. A batch that waited for its longest episode
# would decode mostly padding, so a finished episode frees its slot at once and the next task starts there
# (continuous batching, as vLLM does it for requests).
#
# Hence slots and neighbours depend on when episodes end, but what is drawn must not. So nothing random is taken from
# the order of events: an environment is reset with the task's own seed, each turn is drawn with a seed made of the
# run's seed, the task and the turn's number (`play.turn_seed`), and results are returned in the order of the tasks.
# A second attempt uses the same seeds, and therefore is the same episode.

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from agentforge.environments.base import Environment, EnvironmentFailed, Step
from agentforge.errors import CheckRefused
from agentforge.rollouts.environment_pool import EnvironmentPool
from agentforge.rollouts.episodes import Episode, Turn
from agentforge.rollouts.transcript import Transcript

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
"""Times an episode is started if its environment fails."""


class Task(NamedTuple):
    """One episode to play.

    Attributes:
        environment: its name in the pool.
        seed: of the environment.
        sample: tells apart episodes of the same task and seed: the policy draws other tokens in each.
    """

    environment: str
    task_id: int
    seed: int = 0
    sample: int = 0


OnEpisode = Callable[[Task, Episode], None]
OnFailure = Callable[[Task, str], None]
DialogueT = TypeVar("DialogueT", bound=Transcript)


@dataclass
class RunningEpisode(Generic[DialogueT]):
    """One episode in progress.

    Attributes:
        index: of its task in the queue's sequence.
        attempt: 1 for the first.
        dialogue: begins with the environment's first observation.
        turns: so far.
        last_step: None before the first turn.
        truncated: it got too long, or its player gave up; that the environment cut it short is in `last_step`.
    """

    task: Task
    index: int
    attempt: int
    environment: Environment
    dialogue: DialogueT
    turns: list[Turn] = field(default_factory=list)
    last_step: Step | None = None
    truncated: bool = False
    started: float = field(default_factory=time.perf_counter)

    def step(self, text: str, start: int = 0, end: int = 0, told: str | None = None) -> Step:
        """Give the environment the player's turn.

        Args:
            text: of the whole turn.
            start: where its tokens begin in the dialogue's `token_ids`.
            end: behind the last of them.
            told: what the environment is given; None: the text.

        Raises:
            EnvironmentFailed: it broke.
        """
        step = self.last_step = self.environment.step(text if told is None else told)
        info = step.info
        self.turns.append(Turn(start, end, text, step.observation, step.reward, info["valid_action"], info["score"]))
        return step

    def result(self, policy: str) -> Episode:
        """Return the finished episode, played by the policy with this label."""
        last, dialogue = self.last_step, self.dialogue
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
            truncated=self.truncated or (last is not None and last.truncated),
            messages=dialogue.messages,
            tools=dialogue.tools,
            seconds=time.perf_counter() - self.started,
        )


class EpisodeQueue(Generic[DialogueT]):
    """Starts episodes in the order of their tasks, and keeps what became of them. The top of this file tells how.

    Args:
        pool: has the environments that the tasks name.
        tasks: one episode each.
        open_dialogue: makes the conversation of an episode, from its environment and the first observation.
        policy: label of who plays.
        on_episode: called with each episode that has ended.
        on_failure: called with each task that is lost, and why.

    Attributes:
        running: by slot.
        finished: by the index of their task.
        lost: why the environment failed the last time, by the index of the task; in the order in which they were lost.
    """

    def __init__(
        self,
        pool: EnvironmentPool,
        tasks: Sequence[Task],
        open_dialogue: Callable[[Environment, str], DialogueT],
        policy: str,
        on_episode: OnEpisode | None = None,
        on_failure: OnFailure | None = None,
    ) -> None:
        self.pool = pool
        self.open_dialogue = open_dialogue
        self.policy = policy
        self.on_episode = on_episode
        self.on_failure = on_failure
        self.running: dict[int, RunningEpisode[DialogueT]] = {}
        self.finished: dict[int, Episode] = {}
        self.lost: dict[int, str] = {}
        self._waiting = deque((index, task, 1) for index, task in enumerate(tasks))

    def start_next(self, slot: int) -> RunningEpisode[DialogueT] | None:
        """Start the next episode in a free slot; returns None if no task waits."""
        while self._waiting:
            index, task, attempt = self._waiting.popleft()
            environment = self.pool.take(task.environment)
            try:
                observation = environment.reset(task.seed, task.task_id)
            except EnvironmentFailed as error:
                self._retry_or_lose(index, task, attempt, environment, error)
                continue
            dialogue = self.open_dialogue(environment, observation)
            running = self.running[slot] = RunningEpisode(task, index, attempt, environment, dialogue)
            return running
        return None

    def finish(self, slot: int) -> None:
        """Keep the episode of a slot, which has ended, and free the slot and the environment."""
        running = self.running.pop(slot)
        # before the callback: it may take long, and the environment is needed no more
        self.pool.give_back(running.task.environment, running.environment)
        episode = self.finished[running.index] = running.result(self.policy)
        if self.on_episode is not None:
            self.on_episode(running.task, episode)

    def fail(self, slot: int, error: EnvironmentFailed) -> None:
        """Drop the episode of a slot, whose environment broke, and free the slot."""
        running = self.running.pop(slot)
        self._retry_or_lose(running.index, running.task, running.attempt, running.environment, error)

    def results(self) -> list[Episode]:
        """Return the episodes that have ended, in the order of their tasks.

        Raises:
            CheckRefused: there were tasks, and all of them are lost.
        """
        if self.lost and not self.finished:
            *_, why = self.lost.values()
            raise CheckRefused(f"all {len(self.lost)} episodes were lost with their environment, the last by: {why}")
        return [self.finished[index] for index in sorted(self.finished)]

    def _retry_or_lose(
        self, index: int, task: Task, attempt: int, environment: Environment, error: EnvironmentFailed
    ) -> None:
        self.pool.drop(environment)
        log.warning("%s, task %d: the environment failed: %s", task.environment, task.task_id, error)
        if attempt < MAX_ATTEMPTS:
            self._waiting.appendleft((index, task, attempt + 1))
            return
        self.lost[index] = str(error)
        if self.on_failure is not None:
            self.on_failure(task, self.lost[index])
