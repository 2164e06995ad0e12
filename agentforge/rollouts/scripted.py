"""A policy that follows a script: experts that collect episodes, and known answers to test scores with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from agentforge.rollouts.policies import Completion, Conversation, Message, OnToken, Policy, Sampling, ToolSchema

STOP = 256


class ScriptedPolicy(Policy):
    """Answers with a function of the conversation.

    Its tokens are bytes, its prompt is the conversation as JSON; so it is token-in/token-out as every policy is.

    Args:
        answer: the whole text of the assistant's next turn.
    """

    context_length = 1 << 30

    def __init__(self, answer: Callable[[Conversation], str], label: str = "scripted") -> None:
        self.answer = answer
        self.label = label

    def encode(self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()) -> list[int]:
        return list(json.dumps([list(messages), list(tools)], ensure_ascii=False).encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", errors="replace")

    def complete(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, on_token: OnToken | None = None
    ) -> list[Completion]:
        return [self._one(row, prompt, sampling, on_token) for row, prompt in enumerate(prompts)]

    def _one(self, row: int, prompt: Sequence[int], sampling: Sampling, on_token: OnToken | None) -> Completion:
        script = [*self.answer(Conversation(*json.loads(bytes(prompt)))).encode(), STOP]
        written: list[int] = []
        for token in script[: sampling.max_new_tokens]:
            written.append(token)
            if token != STOP and on_token is not None and on_token(row, token):
                break
        return Completion(written, stopped=written[-1:] == [STOP])
