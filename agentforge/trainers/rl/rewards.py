"""What an episode earns, turn by turn. Named functions of this module, or one of the recipe's own by import path.

Success is the environment's to say (`Episode.success`) and is never derived from these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentforge.errors import UserError
from agentforge.recipe.schema import Reward
from agentforge.references import resolve
from agentforge.rollouts.episodes import Episode, Turn

RewardFunction = Callable[..., Sequence[float]]

# The spec's rewards: for a valid turn, and for the turn that completes the task.
SPEC_STEPS = {"agentgym:alfworld": 0.2, "agentgym:sciworld": 0.15, "agentgym:textcraft": 0.15}
SPEC_COMPLETION = 1.0
SHOPS = ("agentgym:webshop", "shop")


def outcome(episode: Episode) -> list[float]:
    """The score at the end of the episode, which is 0 or 1 where success is all or nothing; nothing before."""
    return [0.0] * (len(episode.turns) - 1) + [episode.score]


def spec_shaping(episode: Episode, penalty: float = 0.05, cap: float | None = None) -> list[float]:
    """The rewards of the spec: a little for every valid turn, 1 for completing the task, ``-penalty`` for an error.

    It pays for stalling: 0.2 a step are 10 over 50 steps, and the spec's own solved example earns 2. With ``cap`` below
    1 an episode earns no more than that by steps, and finishing is worth more than not.

    Args:
        episode: as it was played.
        penalty: for a turn without a valid action.
        cap: most that the steps before the completing one may earn together; None: any amount, as in the spec.
    """
    rewards = [_spec_step(episode, turn) if turn.valid_action else -penalty for turn in episode.turns]
    if cap is not None:
        earned = 0.0
        for i, reward in enumerate(rewards):
            rewards[i] = min(reward, cap - earned)
            earned += rewards[i]
    bought = episode.environment in SHOPS and episode.terminated
    if rewards and (episode.success or bought):
        rewards[-1] = SPEC_COMPLETION
    return rewards


def _spec_step(episode: Episode, turn: Turn) -> float:
    if episode.environment not in SHOPS:
        return SPEC_STEPS.get(episode.environment, 0.0)
    return 0.1 if "search[" in turn.text else 0.3 if "click[" in turn.text else 0.0


def potential(episode: Episode, gamma: float) -> list[float]:
    """``gamma * Phi(s') - Phi(s)`` with the score as Phi, which is 0 before the first turn and after the last.

    The sum over an episode, discounted, is 0 whatever the policy does, so it cannot change which policy is best (Ng,
    Harada & Russell 1999); it only says earlier what a turn was worth.
    """
    after = [turn.score for turn in episode.turns[:-1]] + [0.0]
    before = [0.0] + [turn.score for turn in episode.turns[:-1]]
    return [gamma * later - earlier for later, earlier in zip(after, before, strict=True)]


BUILT_IN: dict[str, RewardFunction] = {"outcome": outcome, "spec_shaping": spec_shaping, "potential": potential}


@dataclass(frozen=True)
class NamedReward:
    """A reward function with its weight in the sum."""

    name: str
    weight: float
    function: RewardFunction
    options: dict[str, Any]

    def __call__(self, episode: Episode) -> list[float]:
        """Return a reward for each turn.

        Raises:
            UserError: the function raised, or what it returned is not a finite number a turn.
        """
        where = f"reward function {self.name}, {episode.environment}, task {episode.task_id}"
        try:
            rewards = [float(reward) for reward in self.function(episode, **self.options)]
        except Exception as error:  # whatever a function of the user's raises, the run ends with one sentence
            raise UserError(f"{where}: it raised {type(error).__name__}: {error}") from error
        if len(rewards) != len(episode.turns):
            raise UserError(
                f"{where}: it returned {len(rewards)} rewards for {len(episode.turns)} turns; return one for each turn"
            )
        if bad := next((reward for reward in rewards if not math.isfinite(reward)), None):
            raise UserError(f"{where}: it returned {bad}; a reward is a finite number")
        return rewards


def load_rewards(rewards: Sequence[Reward], *, gamma: float | None) -> list[NamedReward]:
    """Return the functions of `train.rewards`.

    Args:
        rewards: the recipe's section.
        gamma: the discount from turn to turn; None: the method sums rewards without discount (GRPO).

    Raises:
        UserError: one cannot be imported.
    """
    found = []
    for index, reward in enumerate(rewards):
        function = BUILT_IN.get(reward.function) or _imported(reward.function, f"train.rewards[{index}].function")
        options = {**({"gamma": gamma} if reward.function == "potential" else {}), **reward.options}
        found.append(NamedReward(reward.function, reward.weight, function, options))
    return found


def _imported(target: str, key: str) -> RewardFunction:
    function: RewardFunction = resolve(target, key)
    return function
