"""One interface for every environment, in gymnasium's manner with text in both directions.

    environment = make("affine:sat", {"n_vars": [5, 8]})
    observation = environment.reset(seed=0, task_id=17)
    while True:
        step = environment.step(policy(observation))
        if step.terminated or step.truncated: break

What an episode is depends on (class, options, seed, task_id) and on nothing else: not on PYTHONHASHSEED, the clock, the
order of a directory or the episodes before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import Any, ClassVar, NamedTuple, NotRequired, TypedDict

from agentforge.errors import UserError

ToolSchema = dict[str, Any]


class Info(TypedDict):
    """What is known beside the observation.

    Attributes:
        success: the task's own rule is met. Never derived from the reward: a shaped reward pays for trying.
        valid_action: the text held an action that the environment understands and that is possible now.
        score: in [0, 1], the graded result so far; equal to `success` where success is all or nothing.
        problem: why the action was invalid, for the log and for the observation.
        available_actions: where the environment can list them.
        tool_results: what the calls of the turn gave, one each, where the task has `tools`; the observation is all of
            them.
    """

    success: bool
    valid_action: bool
    score: float
    problem: NotRequired[str]
    available_actions: NotRequired[list[str]]
    tool_results: NotRequired[list[str]]


class Step(NamedTuple):
    """What one action led to; `terminated`: the task is over, `truncated`: the turns are used up."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: Info


class Environment(ABC):
    """A task in text. One object plays one episode at a time; `reset` begins the next.

    Class attributes:
        id: ``affine:sat``; decides which tasks are reserved, whatever name a recipe gives the environment.
        baselines: names that `baseline` knows: ``random`` is the chance level, others are trivial strategies.
        self_contained: it is made of its options alone, without a server, files or an extra; so `show` and `plan` make
            it to prove them. The options of the others are proved at the start of a stage.
        graded: scores lie between 0 and 1, so their interval is a bootstrap and no Beta.
        max_turns: model turns an episode may have; an option of every environment.
        instructions: what the task is and the grammar of an action: the system turn.
        action_tool: one tool with which a tool-calling model acts; its call is the same action as text.
        tools: the task's own, known after `reset`. Where there are any, they are on offer instead of `action_tool`,
            however the model is asked to act.
    """

    id: ClassVar[str]
    baselines: ClassVar[tuple[str, ...]] = ("random",)
    graded: ClassVar[bool] = False
    self_contained: ClassVar[bool] = False
    max_turns: int
    instructions: str
    action_tool: ToolSchema
    tools: list[ToolSchema] = []  # noqa: RUF012  empty, and replaced as a whole

    @property
    @abstractmethod
    def tasks(self) -> int:
        """How many tasks there are: ids are 0 .. tasks - 1."""

    def difficulty(self, task_id: int) -> int:
        """Return the level of a task, 0 the easiest; curricula and reports group by it."""
        return 0

    @abstractmethod
    def reset(self, seed: int, task_id: int) -> str:
        """Begin an episode; returns the first observation.

        Raises:
            UserError: there is no such task.
            EnvironmentFailed: the environment itself broke (a dead server); the episode is lost, not the run.
        """

    @abstractmethod
    def step(self, text: str) -> Step:
        """Take the assistant's whole turn, find the action in it and do it.

        An invalid action is a step like any other: reward 0, `valid_action` false, the problem in the observation.

        Raises:
            EnvironmentFailed: as for `reset`.
        """

    def expert(self) -> str | None:
        """Return the turn an expert would write now; None where there is no expert or it is stuck."""
        return None

    def baseline(self, name: str, random: Random) -> str:
        """Return the turn of a trivial strategy, one of `baselines`.

        Raises:
            UserError: it has none of that name.
            EnvironmentFailed: as for `reset`.
        """
        raise UserError(f"{self.id} has no baseline '{name}'")

    def close(self) -> None:  # noqa: B027  most hold nothing
        """Free what the environment holds; it is not used afterwards."""


class EnvironmentFailed(Exception):
    """The environment broke, not the model: the episode is dropped and counted, the run goes on."""
