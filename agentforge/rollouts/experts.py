"""Players without a model: they look into the environment instead of reading its text."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from random import Random
from typing import TYPE_CHECKING, Any

from agentforge.environments.actions import find_action, find_answer
from agentforge.environments.base import Environment, ToolSchema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Actor(ABC):
    """Plays episodes without a model.

    Args:
        tokenizer: with agentforge's template; its episodes then have the tokens that `prepare` would give them. None:
            they have none.
    """

    label: str

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self.tokenizer = tokenizer

    @abstractmethod
    def turn(self, environment: Environment, random: Random) -> str | None:
        """Return the whole next turn, None to give up."""


class Expert(Actor):
    """The environment's own expert."""

    label = "expert"

    def turn(self, environment: Environment, random: Random) -> str | None:
        return environment.expert()


class Baseline(Actor):
    """One of the environment's trivial strategies; ``random`` is its chance level."""

    def __init__(self, name: str, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        super().__init__(tokenizer)
        self.label = name

    def turn(self, environment: Environment, random: Random) -> str | None:
        return environment.baseline(self.label, random)


def as_call(text: str, tool: ToolSchema) -> dict[str, Any]:
    """Return a turn in an environment's text grammar as an assistant message that calls its tool.

    What stands before an ``Action:`` line, a thought, stays before the call.
    """
    action = find_action(text)
    thought = ""
    if action is None:
        action = find_answer(text)
    else:
        # The last occurrence: a thought may name the action before the line that takes it.
        thought = text[: text.rindex(action)].rpartition("\n")[0].strip()
    call = {"type": "function", "function": {"name": tool["function"]["name"], "arguments": {"action": action}}}
    return {"role": "assistant", "content": thought, "tool_calls": [call]}


def written(message: dict[str, Any]) -> str:
    """Return an assistant message as the text that a model would write for it."""
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls") or []
    ]
    return "\n".join(part for part in (message.get("content") or "", *calls) if part)
