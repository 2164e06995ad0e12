"""Episodes of policies that need no model: the expert and the trivial strategies of an environment."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Any

from agentforge.environments.base import Environment, Step
from agentforge.rollouts.episodes import Episode, Turn

EXPERT = "expert"
RANDOM = "random"


def play_scripted(environment: Environment, strategy: str, task_id: int, seed: int) -> Episode:
    """Play one episode with the expert or one of `Environment.baselines`; it has no tokens.

    An expert that does not know further ends the episode as truncated.

    Raises:
        EnvironmentFailed: the environment broke.
    """
    random = Random(f"{strategy}/{environment.id}/{task_id}/{seed}")
    act: Callable[[], str | None] = (
        environment.expert if strategy == EXPERT else (lambda: environment.baseline(strategy, random))
    )
    started = time.perf_counter()
    observation = environment.reset(seed, task_id)
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": environment.instructions},
        {"role": "user", "content": observation},
    ]
    turns: list[Turn] = []
    step: Step | None = None
    while (step is None or not (step.terminated or step.truncated)) and (text := act()) is not None:
        step = environment.step(text)
        turns.append(Turn(0, 0, text, step.observation, step.reward, step.info["valid_action"], step.info["score"]))
        messages.append({"role": "assistant", "content": text})
        if step.observation:
            messages.append({"role": "user", "content": step.observation})
    ended = step is not None and step.terminated
    return Episode(
        environment=environment.id,
        task_id=task_id,
        seed=seed,
        policy=strategy,
        prompt_ids=[],
        token_ids=[],
        mask=[],
        logprobs=[],
        turns=turns,
        success=step is not None and step.info["success"],
        score=step.info["score"] if step is not None else 0.0,
        terminated=ended,
        truncated=not ended,
        messages=messages,
        tools=[],
        seconds=time.perf_counter() - started,
    )
