"""What the tests of all environments do: play episodes, and play them in processes with other hash seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from agentforge.environments.base import Environment, Step

SCRIPT = """
import json, sys
from random import Random
from agentforge.environments.registry import make
name, options, tasks, turns = json.loads(sys.argv[1])
environment = make(name, options)
written = []
for task in tasks:
    random = Random(task)
    written.append(environment.reset(task + 1, task))
    for turn in range(turns):
        expert = environment.expert() if turn % 3 == 0 else None
        said = expert or environment.baseline("random", random)
        step = environment.step(said)
        written.append([said, *step])
        if step.terminated or step.truncated:
            break
environment.close()
print("WRITTEN " + json.dumps(written))
"""
Policy = Callable[[Environment], str | None]


def expert(environment: Environment) -> str | None:
    return environment.expert()


def baseline(name: str, seed: int = 0) -> Policy:
    random = Random(seed)
    return lambda environment: environment.baseline(name, random)


def play(environment: Environment, policy: Policy, task_id: int, seed: int = 0) -> list[Step]:
    """Play one episode to its end and return its steps; a policy that has nothing to say ends it."""
    environment.reset(seed, task_id)
    steps: list[Step] = []
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        said = policy(environment)
        if said is None:
            break
        steps.append(environment.step(said))
    return steps


def success_rate(environment: Environment, policy: Policy, tasks: Sequence[int]) -> float:
    played = [play(environment, policy, task) for task in tasks]
    return sum(bool(steps) and steps[-1].info["success"] for steps in played) / len(played)


def mean_score(environment: Environment, policy: Policy, tasks: Sequence[int]) -> float:
    return sum(play(environment, policy, task)[-1].info["score"] for task in tasks) / len(tasks)


def written_with_hash_seed(hash_seed: int, name: str, options: dict[str, Any], tasks: Sequence[int], turns: int) -> Any:
    """Return what some episodes are in a process of its own: every observation, turn, reward and info."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([name, options, list(tasks), turns])],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = run.stdout.splitlines()
    assert [line for line in lines if not line.startswith("WRITTEN ")] == [], "the environment printed something"
    return json.loads(lines[-1].removeprefix("WRITTEN "))


def same_in_every_process(name: str, options: dict[str, Any], tasks: Sequence[int], turns: int = 6) -> bool:
    first, second = (written_with_hash_seed(seed, name, options, tasks, turns) for seed in (1, 2))
    assert len(first) > len(tasks)
    return bool(first == second)
