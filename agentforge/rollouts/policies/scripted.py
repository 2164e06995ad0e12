"""A policy that follows a script: known answers to test scores and rollouts with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from agentforge.data.tool_calls import parse_assistant
from agentforge.rollouts.experts import written
from agentforge.rollouts.policies.base import Completion, Conversation, Message, OnToken, Policy, Sampling, ToolSchema

STOP, SAID, SAYS = 256, 257, 258
"""Ends a turn; begins something given, as JSON; begins what the assistant says, as it is."""


class ScriptedPolicy(Policy):
    """Answers with a function of the conversation.

    Its tokens are bytes with marks between turns, and each turn is written by itself; so it is token-in/token-out and
    plays episodes as every policy does.

    Args:
        answer: the whole text of the assistant's next turn.
    """

    context_length = 1 << 30

    def __init__(self, answer: Callable[[Conversation], str], label: str = "scripted") -> None:
        self.answer = answer
        self.label = label
        self.stop_ids = [STOP]

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        turns = [[SAID, *json.dumps(list(tools), ensure_ascii=False).encode(), STOP]]
        for message in messages:
            says = [SAYS, *written(dict(message)).encode()]
            given = [SAID, *json.dumps(message, ensure_ascii=False).encode()]
            turns.append([*(says if message["role"] == "assistant" else given), STOP])
        return [token for turn in turns for token in turn] + [SAYS]

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token for token in token_ids if token < STOP).decode("utf-8", errors="replace")

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_token: OnToken | None = None
    ) -> list[Completion]:
        return [self._one(row, prompt, sampling, on_token) for row, prompt in enumerate(prompts)]

    def _one(self, row: int, prompt: Sequence[int], sampling: Sampling, on_token: OnToken | None) -> Completion:
        script = [*self.answer(self._conversation(prompt)).encode(), STOP]
        given: list[int] = []
        for token in script[: sampling.max_new_tokens]:
            given.append(token)
            if token != STOP and on_token is not None and on_token(row, token):
                break
        return Completion(given, stopped=given[-1:] == [STOP])

    def _conversation(self, prompt: Sequence[int]) -> Conversation:
        turns: list[list[int]] = [[]]
        for token in prompt[:-1]:
            turns[-1].append(token)
            if token == STOP:
                turns.append([])
        # The first piece holds the tools, and behind the last STOP an empty one begins.
        messages: list[Message] = [
            json.loads(self.decode(turn)) if turn[0] == SAID else parse_assistant(self.decode(turn)).message()
            for turn in turns[1:-1]
        ]
        return Conversation(messages, json.loads(self.decode(turns[0])))
