"""What trivial strategies score in affine:sat, affine:abd and affine:ded, how long their prompts are, and their speed.

    python -m benchmarks.affine

affine:sat: 1000 reserved tasks a line. The others: every task of our own corpus. Episodes a second: of the expert, one
process; for affine:sat in CPU seconds, for the others in wall seconds, because the sandbox's processes do the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from agentforge.environments.base import Environment
from agentforge.environments.registry import make
from agentforge.environments.splits import task_ids

TASKS = 1000
SAT: dict[str, dict[str, Any]] = {
    "n 3, k 2, ratio 1, short": {"n_vars": 3, "k": 2, "ratio": 1, "style": "short"},
    "n 3-4, k 2, ratio 1.5, short": {"n_vars": [3, 4], "k": 2, "ratio": 1.5, "style": "short"},
    "n 3-4, k 2-3, ratio 2, short": {"n_vars": [3, 4], "k": [2, 3], "ratio": 2, "style": "short"},
    "n 3-6, k 2, auto, short": {"n_vars": [3, 6], "k": 2, "style": "short"},
    "n 5-8, k 3, auto, short": {"n_vars": [5, 8], "k": 3, "style": "short"},
    "n 10-20, k 3, auto": {"n_vars": [10, 20], "k": 3},
    "n 10-20, k 3-5, auto (default)": {},
    "n 10-20, k 3, auto, unsat_share 0.3": {"n_vars": [10, 20], "k": 3, "unsat_share": 0.3},
    "n 15, k 3, ratio 4.26": {"n_vars": 15, "k": 3, "ratio": 4.26},
    "n 20, k 3, ratio 4.26": {"n_vars": 20, "k": 3, "ratio": 4.26},
    "n 15, k 3, ratio 4.26, planted": {"n_vars": 15, "k": 3, "ratio": 4.26, "planted": True},
    "n 10-20, k 3-5, ratio 4.2": {"ratio": 4.2},
}


def score(environment: Environment, tasks: Iterable[int], name: str) -> tuple[float, int]:
    """Return the success rate of the expert or of a baseline, and the mean characters of a prompt."""
    random = Random(0)
    won = characters = played = 0
    for task in tasks:
        characters += len(environment.instructions) + len(environment.reset(0, task))
        text = environment.expert() if name == "expert" else environment.baseline(name, random)
        won += environment.step(text or "").info["success"]
        played += 1
    return won / played, characters // played


def line(name: str, environment: Environment, tasks: list[int], clock: Callable[[], float]) -> str:
    """Return a line of a table."""
    started = clock()
    expert, characters = score(environment, tasks, "expert")
    speed = len(tasks) / (clock() - started)
    scores = [score(environment, tasks, baseline)[0] for baseline in environment.baselines]
    cells = [f"{100 * share:.1f} %" for share in [*scores, expert]]
    return f"| {name} | {characters} | {' | '.join(cells)} | {speed:.0f} |"


def head(first: str, environment: Environment) -> str:
    """Return the head of a table."""
    names = [*environment.baselines, "expert"]
    return f"| {first} | characters | {' | '.join(names)} | episodes/s |\n|---|--:|{'--:|' * (len(names) + 1)}"


def main() -> None:
    print(head("affine:sat", make("affine:sat")))
    for name, options in SAT.items():
        environment = make("affine:sat", options)
        print(line(name, environment, task_ids(environment, "eval", TASKS), time.process_time), flush=True)
    for id in ("affine:abd", "affine:ded"):
        environment = make(id, {"allow_unisolated": True})
        print(f"\n{head(id, environment)}")
        print(line(f"{environment.tasks} tasks", environment, list(range(environment.tasks)), time.monotonic))


if __name__ == "__main__":
    main()
