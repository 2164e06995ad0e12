"""A policy's turn, handed out while it is written."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agentforge.rollouts.policies.base import Conversation, Generation, Policy
from agentforge.rollouts.policies.steering import Steering, Step
from agentforge.serving.dialect_turns import turn_stream
from agentforge.serving.turns import Delta, Said, TurnStream


@dataclass(frozen=True)
class ScoredToken:
    """A token of a turn, and how likely the model held it.

    Attributes:
        logprob: see `steering.Step`.
        top: the likeliest tokens there, likeliest first, with their log-probabilities.
    """

    text: str
    logprob: float
    top: list[tuple[str, float]]


@dataclass(frozen=True)
class Spoken:
    """A turn that a policy has written.

    Attributes:
        cut: a stop string, or the one call that was allowed, ended it.
        tokens: those that its text consists of, the stop token left out; empty if nobody asked.
        reported: how many of them were handed out with the pieces.
    """

    said: Said
    generation: Generation
    cut: bool
    tokens: list[ScoredToken] = field(default_factory=list)
    reported: int = 0

    @property
    def finish_reason(self) -> str:
        """OpenAI's word for why it ended."""
        if self.said.tool_calls:
            return "tool_calls"
        return "stop" if self.cut or self.generation.stopped else "length"


OnDelta = Callable[[Delta, list[ScoredToken]], None]
"""Called with a piece of the turn, and the tokens since the piece before it, if they are scored."""


class Teller:
    """Hands out a turn's pieces, each with its tokens.

    Text and tokens do not run in step: a piece may be held back, a character may take several tokens. So each token
    is known by the place in the raw text where it begins, and goes out with the piece that first reaches beyond it.
    """

    def __init__(self, policy: Policy, steering: Steering, stream: TurnStream, on_delta: OnDelta) -> None:
        self._policy = policy
        self._steering = steering
        self._stream = stream
        self._on_delta = on_delta
        self._starts: list[int] = []
        self._tokens: list[ScoredToken] = []
        self._reported = 0

    def hear(self, text: str, token: int | None) -> bool:
        """Take the text of one token, or what is left over at the end; tell whether the turn is over."""
        if token is not None and self._steering.steps:
            self._starts.append(len(self._stream.raw))
            self._tokens.append(self._scored(self._steering.steps[-1]))
        self._hand_out(self._stream.feed(text))
        return self._stream.stopped

    def finish(self, generation: Generation) -> Spoken:
        """Hand out what was held back; returns the turn."""
        self._hand_out(self._stream.finish())
        # a stop string cuts the text: the tokens behind the cut were drawn, but are no part of the answer
        count = self._begun(len(self._stream.raw)) if self._stream.stopped else len(self._tokens)
        said, cut = self._stream.said(), self._stream.stopped
        return Spoken(said, generation, cut, self._tokens[:count], min(self._reported, count))

    def _hand_out(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:  # several at once come of one token, which goes with the first
            count = self._begun(self._stream.position)
            self._on_delta(delta, self._tokens[self._reported : count])
            self._reported = count

    def _begun(self, place: int) -> int:
        """Return how many tokens begin before a place in the raw text."""
        return bisect_left(self._starts, place)

    def _scored(self, step: Step) -> ScoredToken:
        top = [(self._policy.decode([token]), logprob) for token, logprob in step.top]
        return ScoredToken(self._policy.decode([step.token]), step.logprob, top)


def speak(
    policy: Policy,
    conversation: Conversation,
    steering: Steering,
    on_delta: OnDelta,
    stream: TurnStream | None = None,
    cancelled: threading.Event | None = None,
) -> Spoken:
    """Let a policy write the next turn, handing out its pieces.

    Args:
        stream: splits the turn, and may end it.
        cancelled: ends the turn at the next token once it is set.
    """
    teller = Teller(policy, steering, stream or turn_stream(policy, conversation.tools), on_delta)

    def on_text(text: str, token: int | None) -> bool:
        return teller.hear(text, token) or (cancelled is not None and cancelled.is_set())

    return teller.finish(policy.reply(conversation, steering, on_text))
