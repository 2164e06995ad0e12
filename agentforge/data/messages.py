"""Conversations in one form: what clients and data sets write differently is made the same before it is rendered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    Results of several calls in one turn are put into the order of the calls, by `tool_call_id` where there is one, else
    by name, else as they come: the template writes no ids, so their order alone says what answers what.

    Args:
        messages: contents may be absent, None, a string or a list of text parts; reasoning may stand in the content.
            ``train: false`` on an assistant turn is kept.

    Raises:
        BadRow: a role is unknown or out of place, a call is no JSON, a tool result answers no call, or a part is no
            text.
    """
    normal: list[Message] = []
    calls: list[_Call] = []
    results: list[tuple[int, Mapping[str, Any]]] = []
    for position, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES:
            raise BadRow("unknown role", f"message {position}: the role {role!r} is none of {', '.join(ROLES)}")
        if role == "tool":
            results.append((position, message))
            continue
        normal += _in_order_of_calls(results, calls)
        calls, results = [], []
        if role == "system" and position:
            raise BadRow("late system turn", f"message {position}: a system turn must be the first")
        content = _text(message.get("content"), position)
        if role == "assistant":
            normal.append(_assistant(message, content, position))
            calls = _made_calls(message, normal[-1])
        else:
            normal.append({"role": role, "content": content})
    return normal + _in_order_of_calls(results, calls)


@dataclass(frozen=True)
class _Call:
    """What a result may name its call by."""

    id: str | None
    name: str


def _made_calls(given: Mapping[str, Any], turn: Message) -> list[_Call]:
    ids = [call.get("id") for call in given.get("tool_calls") or []]
    names = [call["function"]["name"] for call in turn.get("tool_calls", ())]
    return [_Call(_id(id), name) for id, name in zip(ids, names, strict=True)]


def _id(given: Any) -> str | None:
    """Return an id as text; numbers are ids too, 0 among them."""
    return None if given is None or given == "" else str(given)


def _in_order_of_calls(results: Sequence[tuple[int, Mapping[str, Any]]], calls: Sequence[_Call]) -> list[Message]:
    """Return the tool turns that follow an assistant turn, each in the place of its call."""
    answers: list[Message | None] = [None] * len(calls)
    for position, message in results:
        place = _answered_call(position, message, calls, answers)
        name = message.get("name") or (None if _id(message.get("tool_call_id")) is None else calls[place].name)
        named = {"name": name} if name else {}
        answers[place] = {"role": "tool", **named, "content": _result_text(message.get("content"), position)}
    if None in answers[: len(results)]:
        # Without ids in the template, the later results would be read as answers to the earlier calls.
        raise BadRow("call without result", f"message {results[-1][0]}: a call before it has no result, but it has one")
    return [answer for answer in answers if answer is not None]


def _answered_call(
    position: int, message: Mapping[str, Any], calls: Sequence[_Call], answers: Sequence[Message | None]
) -> int:
    """Return the index of the call that a result answers."""
    free = [place for place, answer in enumerate(answers) if answer is None]
    if not free:
        raise BadRow("tool result without call", f"message {position}: a tool result without a call before it")
    id, name = _id(message.get("tool_call_id")), message.get("name")
    if id is not None and (len(calls) > 1 or calls[0].id is not None):
        found = next((place for place in free if calls[place].id == id), None)
        if found is None:
            raise BadRow(
                "tool result of an unknown call",
                f"message {position}: the tool_call_id {id!r} is no open call of the turn before it",
            )
        return found
    return next((place for place in free if calls[place].name == name), free[0])


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
    if message.get("train") is False:
        turn["train"] = False
    return turn


MEDIA = ("image", "audio", "video", "file")
"""Beginnings of the types of content parts that are no text: ``image_url``, ``input_audio`` ..."""


def is_media(part: Any) -> bool:
    """Tell whether a content part is an image, sound, video or file."""
    kind = str(part.get("type", "")) if isinstance(part, Mapping) else ""
    return kind.removeprefix("input_").startswith(MEDIA)


def _result_text(content: Any, position: int) -> str:
    """Return a tool's result as text. Some are recorded as the value instead of its text: those become JSON."""
    plain = content is None or isinstance(content, str)
    parts = isinstance(content, list) and (all(map(is_text, content)) or any(map(is_media, content)))
    return _text(content if plain or parts else json.dumps(content, ensure_ascii=False), position)


def _text(content: Any, position: int) -> str:
    """Return a content as text."""
    if content is None:
        return ""
    if isinstance(content, str):
        text = content
    elif isinstance(content, list) and any(map(is_media, content)):
        raise BadRow(
            "image, audio or video",
            f"message {position}: a part of the content is no text, and only models of text are trained and served",
        )
    elif isinstance(content, list) and all(map(is_text, content)):
        text = "".join(part if isinstance(part, str) else part["text"] for part in content)
    else:
        raise BadRow("content is no text", f"message {position}: the content is neither text nor a list of text parts")
    try:
        # json.loads lets `\ud83d` through; the tokenizer would fail
        # on it much later, in a worker, without saying where.
        text.encode()
    except UnicodeEncodeError:
        raise BadRow("broken unicode", f"message {position}: the text holds half a surrogate pair") from None
    return text


def is_text(part: Any) -> bool:
    """Tell whether a content part is text: a string or ``{"type": "text", "text": ...}``."""
    return isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("text"), str))


def trained_spans(spans: Sequence[tuple[int, int]], messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Return those of the assistant turns' spans that are trained: a turn with ``train: false`` is only read.

    Raises:
        BadRow: a turn is not to be trained, and the template does not mark one span for each assistant turn.
    """
    wanted = [message.get("train", True) for message in messages if message["role"] == "assistant"]
    if all(wanted):
        return list(spans)
    if len(spans) != len(wanted):
        raise BadRow("a turn that cannot be masked", "the chat template does not mark each assistant turn by itself")
    return [span for span, train in zip(spans, wanted, strict=True) if train]
