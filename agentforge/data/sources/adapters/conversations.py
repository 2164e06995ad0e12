"""Sets that are conversations already: OpenAI messages (UltraChat, Toucan), ShareGPT, WildChat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from agentforge.data.sources.adapters.base import (
    Raw,
    Rejected,
    Row,
    SourceOptions,
    conversation,
    holds_something,
    read_value,
)
from agentforge.data.sources.adapters.turns import Turn, from_first_question, read_turns

MEDIA_COLUMNS = ("images", "image", "audios", "audio", "videos", "video")


def messages(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """OpenAI or ChatML messages, as a list or as its JSON text; calls flat or nested, arguments a dict or a string."""
    return _conversation(raw, options, options.get(raw, "messages"))


def sharegpt(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """ShareGPT: ``conversations`` of ``from`` and ``value``, calls as ``function_call`` turns."""
    return _conversation(raw, options, options.get(raw, "conversations"))


def wildchat(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """WildChat: role and content of each turn, and none of its IP hashes, headers, places and moderation scores."""
    return _conversation(raw, options, options.get(raw, "conversation"))


def _conversation(raw: Raw, options: SourceOptions, turns: Any) -> Row | Rejected:
    if has_media(raw):
        return Rejected("image, audio or video")
    left_out: Counter[str] = Counter()
    read = read_turns(turns, left_out)
    if isinstance(read, Rejected):
        return read
    started = with_system(from_first_question(read, left_out), raw, options, left_out)
    return conversation(started, tools_of(raw, options, left_out), left_out)


def has_media(raw: Raw) -> bool:
    """Tell whether a row comes with images, sound or video: its text is not understood without them."""
    return any(holds_something(raw.get(column)) for column in MEDIA_COLUMNS)


def with_system(turns: list[Turn], raw: Raw, options: SourceOptions, left_out: Counter[str]) -> list[Turn]:
    """Put the column ``system`` before the turns, unless they begin with a system turn of their own."""
    column = options.get(raw, "system")
    if not holds_something(column) or (isinstance(column, str) and not column.strip()):
        return turns
    if not turns or turns[0]["role"] != "system":
        return [{"role": "system", "content": column}, *turns]
    if not holds_something(turns[0].get("content")):
        return [{"role": "system", "content": column}, *turns[1:]]
    if turns[0]["content"] != column:
        left_out["system"] += 1
    return turns


def tools_of(raw: Raw, options: SourceOptions, left_out: Counter[str]) -> Any:
    """Return the column ``tools`` or, of before tools were called so, ``functions``."""
    tools, functions = options.get(raw, "tools"), options.get(raw, "functions")
    if not holds_something(tools):
        return functions
    if holds_something(functions) and functions != tools:
        left_out["functions"] += 1
    return tools


def as_turns(value: Any) -> list[Any] | None:
    """Return a cell's turns, which may stand there as text; None if it holds no turns."""
    if isinstance(value, str):
        if not value.lstrip().startswith(("[{", "{")):
            return None
        try:
            value = read_value(value)
        except ValueError:
            return None
    turns = value if isinstance(value, list) else [value]
    first = turns[0] if turns else None
    return turns if isinstance(first, Mapping) and {"role", "from"} & first.keys() else None
