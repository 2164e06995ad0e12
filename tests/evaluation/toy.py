"""Two environments whose right answers are known, and policies that know them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from agentforge.environments.base import Environment, EnvironmentFailed, Info, Step
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.scripted import ScriptedPolicy

NUMBERS = 4


class Say(Environment):
    """Say the number that is asked for: one turn, right or wrong."""

    id: ClassVar[str] = "toy:say"
    baselines: ClassVar[tuple[str, ...]] = ("random", "always_zero")
    instructions = "Say the number."
    action_tool: ClassVar[dict[str, Any]] = {}

    def __init__(self, tasks: int = 1000, broken: int | None = None, max_turns: int = 1) -> None:
        self._tasks = tasks
        self._broken = broken
        self.max_turns = max_turns

    @property
    def tasks(self) -> int:
        return self._tasks

    def difficulty(self, task_id: int) -> int:
        return task_id % 2

    def reset(self, seed: int, task_id: int) -> str:
        if task_id == self._broken:
            raise EnvironmentFailed("the server is down")
        self._wanted = Random(f"{seed}/{task_id}").randrange(NUMBERS)
        return f"Task {task_id}: say {self._wanted}"

    def step(self, text: str) -> Step:
        valid = re.fullmatch(r"\d+", text.strip()) is not None
        success = valid and int(text) == self._wanted
        return Step("", float(success), True, False, Info(success=success, valid_action=valid, score=float(success)))

    def expert(self) -> str | None:
        return str(self._wanted)

    def baseline(self, name: str, random: Random) -> str:
        return "0" if name == "always_zero" else str(random.randrange(NUMBERS))


class Climb(Environment):
    """Say "up" three times within four turns; every step up is a third of the score."""

    id: ClassVar[str] = "toy:climb"
    graded: ClassVar[bool] = True
    instructions = "Climb."
    action_tool: ClassVar[dict[str, Any]] = {}

    def __init__(self, max_turns: int = 4) -> None:
        self.max_turns = max_turns

    @property
    def tasks(self) -> int:
        return 1 << 40

    def reset(self, seed: int, task_id: int) -> str:
        self._height = self._turns = 0
        return f"You are at the foot of hill {task_id}."

    def step(self, text: str) -> Step:
        self._turns += 1
        self._height += text == "up"
        success = self._height == 3
        info = Info(success=success, valid_action=text in ("up", "stay"), score=self._height / 3)
        return Step(f"Height {self._height}", 0.1, success, not success and self._turns == self.max_turns, info)

    def expert(self) -> str | None:
        return "up"

    def baseline(self, name: str, random: Random) -> str:
        return random.choice(["up", "stay"])


ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "say": {"class": f"{__name__}:Say"},
    "climb": {"class": f"{__name__}:Climb"},
}


def toy_recipe(directory: Path, tasks: int = 40, **changes: Any) -> Recipe:
    raw: dict[str, Any] = {
        "name": "Toy",
        "output_dir": str(directory / "runs"),
        "environments": ENVIRONMENTS,
        "rollouts": {"max_new_tokens": 40},
        "evaluate": {"environments": {"tasks": tasks}},
    }
    return Recipe.model_validate(raw | changes)


def skilled(skill: float, label: str, seed: int = 0) -> ScriptedPolicy:
    """Return a policy that does the right thing with a probability, the same at the same observation and turn."""

    def answer(conversation: Any) -> str:
        said = [str(message["content"]) for message in conversation.messages]
        right = Random(f"{seed}/{said}").random() < skill
        if said[0].startswith("Climb"):
            return "up" if right else "stay"
        return said[-1].split()[-1] if right else "I do not know"

    return ScriptedPolicy(answer, label)


Opener = Callable[..., ScriptedPolicy]
