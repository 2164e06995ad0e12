"""An episode as it was played, token by token: what is trained is what was sampled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One turn of the model within an episode.

    Attributes:
        start, end: its tokens are ``token_ids[start:end]``, the stop token with them.
        text: those tokens decoded, without the stop token.
        observation: what the environment answered (empty after the last turn if nothing was left to say).
        reward: of this step.
        valid_action: see `Info`.
        score: `Info`'s after this step; potential-based shaping needs it.
    """

    start: int
    end: int
    text: str
    observation: str
    reward: float
    valid_action: bool
    score: float


@dataclass(frozen=True)
class Episode:
    """One episode of a policy in an environment.

    Attributes:
        environment, task_id, seed: what was played.
        policy: the policy's label.
        prompt_ids: the tokens before the model's first turn.
        token_ids: everything after it: the model's turns and, between them, the environment's.
        mask: 1 where the policy sampled the token, 0 where the environment (or the template) wrote it.
        logprobs: of the sampled tokens under the distribution that was sampled from; 0.0 at masked-out ones.
        turns: the model's turns in order.
        success, score: of the last step's info.
        terminated: the environment ended the episode.
        truncated: turns or context ran out first.
        messages: the same as conversation rows (system, user, assistant ...), for reading and for SFT.
        tools: the tools on offer, if the model acts by calls.
        seconds: wall time from reset to end.
    """

    # Two turns in tokens (P: prompt, A: sampled, E: written by the environment or the template):
    #
    #     prompt_ids  P P P
    #     token_ids         A A A E E E A A
    #     mask              1 1 1 0 0 0 1 1
    #     turns             [0, 3)      [6, 8)
    environment: str
    task_id: int
    seed: int
    policy: str
    prompt_ids: list[int] = field(repr=False)
    token_ids: list[int] = field(repr=False)
    mask: list[int] = field(repr=False)
    logprobs: list[float] = field(repr=False)
    turns: list[Turn] = field(repr=False)
    success: bool
    score: float
    terminated: bool
    truncated: bool
    messages: list[dict[str, Any]] = field(repr=False)
    tools: list[dict[str, Any]] = field(repr=False)
    seconds: float

    @property
    def reward(self) -> float:
        """Sum of the rewards of its steps."""
        return sum(turn.reward for turn in self.turns)

    @property
    def valid_actions(self) -> float:
        """Share of its turns that held a valid action."""
        return sum(turn.valid_action for turn in self.turns) / max(1, len(self.turns))
