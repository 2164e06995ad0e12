"""What experts and trivial strategies reach in the embedded games, and how many steps a second each makes.

    python -m benchmarks.environments

100 reserved tasks a line (30 of the slow ones that need an extra, if it is there). Steps a second: those of the random
strategy and of the expert, resets with them, one process; CPU seconds, wall seconds where Java does the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

from agentforge.environments.base import Environment
from agentforge.environments.registry import make
from agentforge.environments.splits import task_ids
from agentforge.errors import UserError

SLOW = ("agentgym:sciworld", "agentgym:alfworld")
SETTINGS: list[tuple[str, str, dict[str, Any]]] = [
    ("agentgym:textcraft", "", {}),
    ("agentgym:textcraft", "max_depth 1, distractors 1, short", {"max_depth": 1, "distractors": 1, "style": "short"}),
    (
        "agentgym:textcraft",
        "max_depth 2, distractors 1, short, max_turns 8",
        {"max_depth": 2, "distractors": 1, "style": "short", "max_turns": 8},
    ),
    ("agentgym:babyai", "", {}),
    ("agentgym:babyai", "actions primitive, max_turns 60", {"actions": "primitive", "max_turns": 60}),
    (
        "agentgym:babyai",
        "GoToLocal, GoToLocalS5N2, short, max_turns 6",
        {"levels": ["GoToLocal", "GoToLocalS5N2"], "style": "short", "max_turns": 6},
    ),
    (
        "agentgym:babyai",
        "PutNextLocal, PickupLoc, OpenDoor, short, max_turns 12",
        {"levels": ["PutNextLocal", "PickupLoc", "OpenDoor"], "style": "short", "max_turns": 12},
    ),
    ("shop", "", {}),
    ("agentgym:sciworld", "max_difficulty 1, max_turns 40", {"max_difficulty": 1, "max_turns": 40}),
    ("agentgym:alfworld", "", {}),
]


class Played:
    """What a strategy did in some tasks."""

    def __init__(self, environment: Environment, name: str, tasks: list[int], clock: Callable[[], float]) -> None:
        self.successes, self.score, self.steps, self.characters = 0, 0.0, 0, 0
        started = clock()
        for task in tasks:
            self._episode(environment, name, task)
        self.seconds = clock() - started
        self.tasks = len(tasks)

    def _episode(self, environment: Environment, name: str, task: int) -> None:
        random = Random(task)
        self.characters += len(environment.reset(0, task))
        while True:
            said = environment.expert() if name == "expert" else environment.baseline(name, random)
            step = environment.step(said or "")
            self.steps += 1
            self.characters += len(step.observation)
            if step.terminated or step.truncated:
                break
        self.successes += step.info["success"]
        self.score += step.info["score"]

    def result(self, graded: bool) -> str:
        score = f" ({self.score / self.tasks:.2f})" if graded else ""
        return f"{100 * self.successes / self.tasks:.0f} %{score}"


def line(name: str, setting: str, options: dict[str, Any]) -> str:
    """Return a line of the table."""
    environment = make(name, options)
    tasks = task_ids(environment, "eval", 30 if name in SLOW else None if environment.tasks < 500 else 100)
    clock = time.monotonic if name == "agentgym:sciworld" else time.process_time
    played = {who: Played(environment, who, tasks, clock) for who in ("expert", *environment.baselines)}
    environment.close()
    expert, chance = played["expert"], played["random"]
    others = ", ".join(f"{who} {done.result(environment.graded)}" for who, done in list(played.items())[2:])
    cells = [
        f"`{name}`{' ' + setting if setting else ''}",
        str(len(tasks)),
        expert.result(environment.graded),
        f"{expert.steps / len(tasks):.1f}",
        chance.result(environment.graded),
        others,
        f"{expert.characters / (expert.steps + len(tasks)):.0f}",
        f"{chance.steps / chance.seconds:,.0f}",
        f"{expert.steps / expert.seconds:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    print(
        "| environment | tasks | expert | turns | random | others | characters | random steps/s | expert steps/s |\n"
        "|---|--:|--:|--:|--:|---|--:|--:|--:|"
    )
    for name, setting, options in SETTINGS:
        try:
            print(line(name, setting, options), flush=True)
        except UserError as error:
            print(f"| `{name}` | | | | | {error} | | | |", flush=True)


if __name__ == "__main__":
    main()
