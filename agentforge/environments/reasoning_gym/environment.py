"""Tasks of reasoning-gym (Stojanovski et al., arXiv 2505.24760): a hundred kinds of questions, each with a checker."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from random import Random
from typing import Any, ClassVar

from agentforge.environments.actions import act_tool, find_answer, find_call
from agentforge.environments.base import EnvironmentFailed, Info, Step
from agentforge.environments.options import as_count
from agentforge.environments.packages import Named, needed
from agentforge.environments.text_game import belongs
from agentforge.errors import UserError, did_you_mean, first_line

EACH = 10_000
"""Tasks of a level: its ids follow each other, so those of a level are the same whatever levels are left out."""
TRIES = 200
"""Questions drawn for one task at most, until one is of its split."""
FAILURES = 10
"""Draws of a task that may fail: some kinds look for a puzzle at random, and do not always find one."""
STRIDE = 10_007
"""From one draw of a task to the next: above `EACH`, so that no two tasks share a draw, and prime to `SIZE`."""
SIZE = 1_000
"""Questions that a kind is told it has. Most make any question when it is asked for; a few make these beforehand."""

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_INSTRUCTIONS = "Answer the question. Write your final answer, and nothing else, between <answer> and </answer>."


class ReasoningGym(Named):
    """Questions of one kind; the checker of the kind scores the answer from 0 to 1, and 1 is success.

    A task's difficulty is the level of reasoning-gym's own curriculum for this kind, all attributes raised together.
    The seed of an episode changes nothing.

    Args:
        name: of the kind: ``chain_sum``, ``sudoku`` ...
        max_level: leaves higher levels out; None: none.
        config: fields of the kind's configuration, the same at every level.
        max_turns: answers the model may give; the last one counts.

    Raises:
        UserError: the package is missing, or there is no such kind, level or field.
    """

    id: ClassVar[str] = "reasoning-gym"
    family: ClassVar[str] = "reasoning-gym"
    graded: ClassVar[bool] = True

    def __init__(
        self, name: str, max_level: int | None = None, config: dict[str, Any] | None = None, max_turns: int = 1
    ) -> None:
        super().__init__(name)
        self._factory = needed("reasoning_gym.factory", self.id, "reasoning-gym")
        kinds = list(self._factory.DATASETS)
        if name not in kinds:
            raise UserError(f"reasoning-gym has no '{name}'{did_you_mean(name, kinds) or f'; it has: {kinds}'}")
        self.max_turns = as_count(max_turns, f"{self.key}.max_turns")
        highest = len(_levels(name)) - 1
        self.max_level = highest if max_level is None else as_count(max_level, f"{self.key}.max_level", 0, highest)
        self._config = self._checked(config)
        self._prove()
        self.instructions = _INSTRUCTIONS
        self.action_tool = act_tool("Gives the final answer.", "the answer alone")
        self._level, self._turns, self._score = 0, 0, 0.0
        self._entry: dict[str, Any] = {}

    def _checked(self, config: dict[str, Any] | None) -> tuple[tuple[str, Any], ...]:
        """Return the fields that a recipe sets, as something that can be a key of a cache."""
        fields = [field.name for field in dataclasses.fields(self._factory.DATASETS[self.name][1])]
        fields = [field for field in fields if field not in ("seed", "size")]
        if not isinstance(config, dict | None):
            raise UserError(f"{self.key}.config must be fields and their values, not {config!r}")
        for field in config or {}:
            if field not in fields:
                hint = did_you_mean(str(field), fields) or f"; it has: {', '.join(fields)}"
                raise UserError(f"{self.key}.config has no field '{field}'{hint}")
        return tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in (config or {}).items())

    def _prove(self) -> None:
        """Refuse fields that do not fit a level; the questions themselves are made later."""
        for level in range(self.max_level + 1) if self._config else ():
            try:
                _settings(self.name, _levels(self.name)[level], self._config)
            except Exception as error:  # each kind checks its fields in a way of its own
                raise UserError(
                    f"{self.key}.config does not fit level {level}: {first_line(error)}; set both ends of a range"
                ) from error

    @property
    def tasks(self) -> int:
        return EACH * (self.max_level + 1)

    def difficulty(self, task_id: int) -> int:
        return task_id // EACH

    def reset(self, seed: int, task_id: int) -> str:
        if not 0 <= task_id < self.tasks:
            raise UserError(f"{self.id} has tasks 0 to {self.tasks - 1} with these options, not {task_id}")
        self._level, place = divmod(task_id, EACH)
        self._turns, self._score = 0, 0.0
        for entry in self._made(place + draw * STRIDE for draw in range(TRIES)):
            if belongs(self.id, task_id, question := str(entry["question"])):
                self._entry = entry
                return question
        raise EnvironmentFailed(f"{self.id} has too few questions at level {self._level} to keep some for evaluation")

    def _made(self, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the questions with these indices, without the few that the kind fails to make."""
        failed = 0
        for index in indices:
            try:
                entry = self._drawn(index)
            except EnvironmentFailed:
                failed += 1
                if failed > FAILURES:
                    raise
                continue
            yield entry

    def _drawn(self, index: int) -> dict[str, Any]:
        try:
            kind = _dataset(self.name, _levels(self.name)[self._level], self._config)
            try:
                return dict(kind[index])
            except IndexError:  # one of those that make their questions beforehand
                return dict(kind[index % SIZE])
        except Exception as error:
            raise EnvironmentFailed(f"{self.id} cannot make question {index}: {first_line(error)}") from error

    def step(self, text: str) -> Step:
        self._turns += 1
        before, (answer, problem) = self._score, _answer(text)
        self._score = 0.0 if answer is None else self._scored(answer)
        right = self._score >= 1
        info = Info(success=right, valid_action=answer is not None, score=self._score)
        if problem:
            info["problem"] = problem
        last = self._turns >= self.max_turns
        over = right or (
            last and self.max_turns == 1
        )  # a single answer ends the task, the last of several is truncated
        told = "" if right else problem or "That is not the right answer."
        # The gain, so that an episode earns the score of its last answer.
        return Step(told, self._score - before, over, last and not over, info)

    def _scored(self, answer: str) -> float:
        try:
            kind = _dataset(self.name, _levels(self.name)[self._level], self._config)
            score = float(kind.score_answer(answer=answer, entry=self._entry))
        except Exception:  # some checkers fail on what is far from an answer
            return 0.0
        return min(1.0, max(0.0, score)) if math.isfinite(score) else 0.0

    def expert(self) -> str | None:
        """Return the answer that comes with the question; a few kinds have none."""
        known = self._entry.get("answer")
        return None if known is None else said(str(known))

    def baseline(self, name: str, random: Random) -> str:
        """Return the turn of ``random``: the answer to another question of the same level."""
        if name != "random":
            raise UserError(f"{self.id} has no baseline '{name}'; it has: {', '.join(self.baselines)}")
        other = next(self._made(random.randrange(TRIES * EACH) for _ in range(TRIES)))
        return said(str(other.get("answer")))


def said(answer: str) -> str:
    """Return an answer as a turn."""
    return f"<answer>{answer}</answer>"


def _answer(text: str) -> tuple[str | None, str]:
    """Return the answer of a turn, and what is wrong if there is none."""
    if found := _ANSWER.findall(find_answer(text)):
        return found[-1].strip(), ""
    # What a call of `act` holds is the answer, with or without the tags.
    if called := find_call(text):
        return called, ""
    return None, "There is no <answer>...</answer> in your turn."


@cache
def _levels(name: str) -> list[int]:
    """Return the levels of a kind that reasoning-gym's own checks accept; a kind without a curriculum has one."""
    from reasoning_gym.factory import CURRICULA, create_curriculum

    if name not in CURRICULA:
        return [0]
    attributes = create_curriculum(name).attributes.values()
    return [level for level in range(max((len(a.levels) for a in attributes), default=1)) if _is_valid(name, level)]


def _is_valid(name: str, level: int) -> bool:
    try:
        _settings(name, level, ())
    except Exception:  # such as a rotation by more letters than there are
        return False
    return True


def _settings(name: str, level: int, config: tuple[tuple[str, Any], ...]) -> Any:
    """Return the configuration of a level, checked."""
    from reasoning_gym.coaching.base_curriculum import DefaultCurriculumContext, RangeAttributeMode
    from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum

    basic = {"seed": 0, "size": SIZE}
    if name in CURRICULA:
        curriculum = create_curriculum(name)
        curriculum.set_global_level(level)
        # A level by itself: reasoning-gym's default mixes all easier ones into it.
        context = DefaultCurriculumContext(mode=RangeAttributeMode.UPPER_BOUND)
        chosen = curriculum.generate_configuration(basic, context=context)
    else:
        chosen = DATASETS[name][1](**basic)
    chosen = dataclasses.replace(chosen, **dict(config))
    if hasattr(chosen, "validate"):
        chosen.validate()
    return chosen


@lru_cache(maxsize=256)
def _dataset(name: str, level: int, config: tuple[tuple[str, Any], ...]) -> Any:
    """Return the questions of a level; kept, because some kinds read a dictionary first."""
    from reasoning_gym.factory import DATASETS

    return DATASETS[name][0](_settings(name, level, config))
