"""What the text games share: one action per turn, taken from the assistant's text, and a limit on the turns."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from random import Random
from typing import NamedTuple

from agentforge.environments.actions import find_action
from agentforge.environments.base import Environment, EnvironmentFailed, Info, Step
from agentforge.environments.options import as_count
from agentforge.environments.splits import EVAL_SHARE, split_of
from agentforge.errors import UserError

FORMAT = "Write your thoughts if you like, then one action on a line of its own: `Action: ...`."


class TurnOutcome(NamedTuple):
    """The result of an action; ``score`` is that of the whole episode so far, ``over`` ends the game."""

    observation: str
    reward: float = 0.0
    score: float = 0.0
    success: bool = False
    over: bool = False


TASKS = 1 << 31
"""Number of tasks of an environment that draws them."""


class InvalidAction(Exception):
    """The text is no action of the game, or one that is not possible now. Its message goes to the model."""


class TextGame(Environment):
    """An environment whose subclasses only play: `begin`, `act` and, where it can be listed, `available`.

    Args:
        max_turns: model turns of an episode.
    """

    explains = True
    """Whether an invalid action's observation says what was wrong with it."""

    def __init__(self, max_turns: int) -> None:
        self.max_turns = as_count(max_turns, f"environments.{self.id}.max_turns")
        self._turn = 0
        self._last = TurnOutcome("")

    @abstractmethod
    def begin(self, seed: int, task_id: int) -> str:
        """Set up a task and return its first observation."""

    @abstractmethod
    def act(self, action: str) -> TurnOutcome:
        """Do an action.

        Raises:
            InvalidAction: nothing was done.
        """

    def available(self) -> list[str]:
        """Return the actions that make sense now, in a fixed order; empty where they cannot be listed."""
        return []

    def reset(self, seed: int, task_id: int) -> str:
        if not 0 <= task_id < self.tasks:
            raise UserError(f"{self.id} has tasks 0 to {self.tasks - 1} with these options, not {task_id}")
        self._turn, self._last = 0, TurnOutcome("")
        return self.begin(seed, task_id)

    def step(self, text: str) -> Step:
        if self._last.over:
            raise RuntimeError(f"{self.id}: the episode is over; call reset to begin the next")
        # Counted before anything else: an invalid action costs a turn, or a model could try for ever.
        self._turn += 1
        problem = None
        try:
            action = find_action(text)
            if action is None:
                raise InvalidAction("there is no line `Action: ...` in your turn")
            self._last = self.act(action)
        except InvalidAction as error:
            # Nothing was done: score and success stay those of the last valid action, the reward is this turn's.
            problem = str(error)
            self._last = self._last._replace(observation=self._refusal(problem), reward=0.0)
        info = Info(success=self._last.success, valid_action=problem is None, score=self._last.score)
        if problem is not None:
            info["problem"] = problem
        # Asked after the action: what is listed is what the next turn may do.
        if not self._last.over and (actions := self.available()):
            info["available_actions"] = actions
        over = self._last.over
        # A game that is won in its last turn is terminated, not truncated.
        return Step(self._last.observation, self._last.reward, over, not over and self._turn >= self.max_turns, info)

    def _refusal(self, problem: str) -> str:
        return f"Invalid action: {problem}." if self.explains else "Invalid action."

    def baseline(self, name: str, random: Random) -> str:
        """Return a turn of ``random``: one of the available actions, each as likely as any other."""
        if name != "random":
            raise UserError(f"{self.id} has no baseline '{name}'; there are: {', '.join(self.baselines)}")
        actions = self.available()
        if not actions:  # it lists none before `reset`, and a server may list none at any time
            raise EnvironmentFailed(f"{self.id} lists no action that could be taken now")
        return say(random.choice(actions))


def say(action: str) -> str:
    """Return an action as a turn."""
    return f"Action: {action}"


def belongs(environment_id: str, task_id: int, content: str) -> bool:
    """Tell whether a task may have this content: no training task ever shows what a reserved one shows.

    Where tasks are drawn, two ids may get the same one. So a drawn task has a split of its own, decided by its content,
    and an id takes the first draw that falls into its split.
    """
    digest = hashlib.blake2b(f"{environment_id}/{content}".encode(), digest_size=8).digest()
    reserved = int.from_bytes(digest, "big") % EVAL_SHARE == 0
    # One draw in five is reserved; an id of the other split takes the next draw instead.
    return reserved == (split_of(environment_id, task_id) == "eval")
