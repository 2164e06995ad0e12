"""Two environments small enough to be understood at a glance: one of a single turn, one of several."""

from __future__ import annotations

from random import Random
from typing import ClassVar

from agentforge.environments.actions import act_tool, find_action
from agentforge.environments.base import Environment, EnvironmentFailed, Info, Step


class Add(Environment):
    """One turn: the sum of two numbers."""

    id = "toy:add"
    baselines = ("random", "zero")
    instructions = 'Add the numbers. Answer with one line: "Action: SUM".'
    action_tool = act_tool("Give the sum.", "the sum")

    def __init__(self, largest: int = 9, max_turns: int = 1) -> None:
        self.largest = largest
        self.max_turns = max_turns

    @property
    def tasks(self) -> int:
        return (self.largest + 1) ** 2

    def reset(self, seed: int, task_id: int) -> str:
        self.numbers = divmod(task_id, self.largest + 1)
        return f"{self.numbers[0]} + {self.numbers[1]}"

    def step(self, text: str) -> Step:
        said = find_action(text) or ""
        valid, right = said.isdigit(), said == str(sum(self.numbers))
        info = Info(success=right, valid_action=valid, score=float(right))
        return Step("Right." if right else "Wrong.", float(right), True, False, info)

    def expert(self) -> str | None:
        return f"Action: {sum(self.numbers)}"

    def baseline(self, name: str, random: Random) -> str:
        return "Action: 0" if name == "zero" else f"Action: {random.randint(0, 2 * self.largest)}"


class Count(Environment):
    """Several turns: count down to zero from a number, one step each turn."""

    id = "toy:count"
    instructions = 'Count down to 0, one number a turn. Write a line "Action: NUMBER".'
    action_tool = act_tool("Say the next number.", "the next number")
    broken: ClassVar[set[int]] = set()
    """Task ids whose environment breaks in its second step."""

    def __init__(self, largest: int = 50, max_turns: int = 60, noise: int = 0) -> None:
        self.largest = largest
        self.max_turns = max_turns
        self.noise = noise

    @property
    def tasks(self) -> int:
        return self.largest

    def reset(self, seed: int, task_id: int) -> str:
        self.task, self.left, self.turns = task_id, task_id + 1, 0
        self.random = Random(f"{seed}/{task_id}")
        return self._observation()

    def step(self, text: str) -> Step:
        self.turns += 1
        if self.task in self.broken and self.turns == 2:
            raise EnvironmentFailed("the counter is out of order")
        said = find_action(text)
        valid = said == str(self.left - 1)
        self.left -= valid
        info = Info(success=self.left == 0, valid_action=valid, score=1 - self.left / (self.task + 1))
        if not valid:
            info["problem"] = "no action" if said is None else f"{said} is not the next number"
        over = self.left == 0
        return Step(self._observation(), float(over), over, not over and self.turns >= self.max_turns, info)

    def expert(self) -> str | None:
        return f"I count.\nAction: {self.left - 1}"

    def baseline(self, name: str, random: Random) -> str:
        return f"Action: {random.randint(0, self.largest)}"

    def _observation(self) -> str:
        noise = " ".join(self.random.choice(["tick", "tack", "tock"]) for _ in range(self.noise))
        return f"You are at {self.left}. {noise}".strip()
