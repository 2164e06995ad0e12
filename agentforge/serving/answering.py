"""A request of the API answered by a policy, choice by choice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from agentforge.data.dialects.call_syntaxes import HERMES
from agentforge.data.messages import BadRow
from agentforge.errors import UserError
from agentforge.rollouts.policies.base import Policy
from agentforge.rollouts.policies.steering import Steering
from agentforge.serving.dialect_turns import turn_stream
from agentforge.serving.openai_api import ChatRequest
from agentforge.serving.openai_errors import BadRequest, refuse
from agentforge.serving.speaking import ScoredToken, Spoken, speak
from agentforge.serving.turns import Delta


@dataclass(frozen=True)
class Event:
    """What happens to one of a request's choices: a piece of it is written, or it is complete.

    Attributes:
        tokens: of the piece, if they are scored.
    """

    choice: int
    delta: Delta | None = None
    tokens: list[ScoredToken] = field(default_factory=list)
    spoken: Spoken | None = None


def answer(
    policy: Policy, request: ChatRequest, on_event: Callable[[Event], None], cancelled: threading.Event
) -> list[Spoken]:
    """Write the ``n`` choices of a request one after another.

    Args:
        cancelled: ends the answer at the next token once it is set.

    Raises:
        UserError: the conversation does not fit the model, or the answer cannot be held to what is asked for.
    """
    choices: list[Spoken] = []
    for choice in range(request.n or 1):
        # a grammar and a turn's state are used up by one choice
        stream = turn_stream(
            policy,
            request.conversation.tools,
            request.stop or (),
            one_call=request.parallel_tool_calls is False,
            verbatim=request.form is not None and request.form.json_value is not None,
        )

        def hand_over(delta: Delta, tokens: list[ScoredToken], choice: int = choice) -> None:
            on_event(Event(choice, delta, tokens))

        steering = _steering(policy, request, choice)
        try:
            spoken = speak(policy, request.conversation, steering, hand_over, stream, cancelled)
        except BadRow as error:  # a model's own template refuses what it was not made for
            refuse("messages", str(error))
        on_event(Event(choice, spoken=spoken))
        choices.append(spoken)
        if cancelled.is_set():
            break
    return choices


def _steering(policy: Policy, request: ChatRequest, choice: int) -> Steering:
    constraint = None
    if (form := request.form) is not None:
        if form.calls and policy.dialect is not None and policy.dialect.syntax not in (None, HERMES):
            refuse(
                form.param,
                f"this model writes calls as '{policy.dialect.syntax.name}', and no answer can be held to that form",
            )
        try:
            tokenizer = policy.grammar_tokenizer()
        except UserError as error:  # the engine's own sentence, and the field that asked for a grammar
            raise BadRequest(f"{form.param}: {error}", param=form.param) from None
        constraint = form.constraint(tokenizer)
    top_logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return Steering(request.sampling(policy, choice), constraint, top_logprobs)
