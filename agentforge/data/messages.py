"""Conversations in one form: what clients and data sets write differently is made the same before it is rendered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentforge.data.tool_calls import escape_tags, nested_call, split_reasoning
from agentforge.errors import UserError

Message = dict[str, Any]
ROLES = ("system", "user", "assistant", "tool")


class BadRow(UserError):
    """A conversation that cannot be trained on or answered; `reason` is its short name in counts."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


def normalize(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return messages in the form of docs/architecture.md: contents are strings, calls nested, their arguments dicts.

    Args:
        messages: contents may be absent, None, a string or a list of text parts; reasoning may stand in the content.

    Raises:
        BadRow: a role is unknown or out of place, a call is no JSON, or a tool result answers no call.
    """
    normal: list[Message] = []
    for position, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES:
            raise BadRow("unknown role", f"message {position}: the role {role!r} is none of {', '.join(ROLES)}")
        if role == "system" and position:
            raise BadRow("late system turn", f"message {position}: a system turn must be the first")
        content = _text(message.get("content"), position)
        if role == "assistant":
            normal.append(_assistant(message, content, position))
            continue
        if role == "tool" and not _follows_call(normal):
            raise BadRow("tool result without call", f"message {position}: a tool result without a call before it")
        named = {"name": message["name"]} if role == "tool" and message.get("name") else {}
        normal.append({"role": role, **named, "content": content})
    return normal


def escape(messages: Sequence[Message]) -> list[Message]:
    """Return normal messages with the tags that assistants quote escaped, ready for the template."""
    # Only assistant turns are ever parsed; elsewhere a quoted tag
    # is text, and `chat_template` keeps it from being a token.
    return [_escape_turn(message) if message["role"] == "assistant" else message for message in messages]


def _escape_turn(message: Message) -> Message:
    keys = ("content", "reasoning_content")
    return message | {key: escape_tags(message[key]) for key in keys if message.get(key)}


def _assistant(message: Mapping[str, Any], content: str, position: int) -> Message:
    given = message.get("reasoning_content")
    # Data sets without `reasoning_content` put the reasoning into the content, between think tags.
    reasoning, content = split_reasoning(content) if given is None else (_text(given, position), content)
    turn: Message = {"role": "assistant", "content": content}
    if reasoning:
        turn["reasoning_content"] = reasoning
    try:
        calls = [nested_call(call) for call in message.get("tool_calls") or []]
    # AttributeError: a call is a bare string; TypeError: `tool_calls` is not a list.
    except (ValueError, AttributeError, TypeError) as error:
        raise BadRow("tool call is no JSON", f"message {position}: {error}") from None
    if calls:
        turn["tool_calls"] = calls
    return turn


def _follows_call(messages: Sequence[Message]) -> bool:
    """Tell whether a tool result may come next: each answers one call of the assistant turn before it."""
    for results, message in enumerate(reversed(messages)):
        if message["role"] != "tool":
            # `results` tool messages followed this turn already; the next one needs a call that none of them answers.
            return results < len(message.get("tool_calls", ()))
    return False


def _text(content: Any, position: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        text = content
    elif isinstance(content, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    ):
        text = "".join(part["text"] for part in content)
    # Some tool results are recorded as the object instead of its text.
    elif isinstance(content, Mapping):
        text = json.dumps(content, ensure_ascii=False)
    else:
        raise BadRow("content is no text", f"message {position}: the content is neither text nor a list of text parts")
    try:
        # json.loads lets `\ud83d` through; the tokenizer would fail
        # on it much later, in a worker, without saying where.
        text.encode()
    except UnicodeEncodeError:
        raise BadRow("broken unicode", f"message {position}: the text holds half a surrogate pair") from None
    return text
