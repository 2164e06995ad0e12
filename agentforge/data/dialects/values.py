"""Values inside tool calls: strict JSON, tagged texts, and Gemma's braces."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_SPACE = re.compile(r"\s*")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def decode_json(text: str, start: int) -> tuple[Any, int]:
    """Read one strict JSON value at ``start`` (blanks before it are passed over); returns it and where it ends.

    Raises:
        ValueError: there is none.
    """
    found = _SPACE.match(text, start)
    at = found.end() if found else start
    try:
        value, end = _DECODER.raw_decode(text, at)
        # `1e999` is read as infinity and `\\ud83d` as half a character; writing the value again finds both.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"a tool call is no JSON ({error}): {shorten(text[at:])}") from None
    return value, end


def typed(text: str, schema: Mapping[str, Any]) -> Any:
    """Return the value that a text between tags stands for.

    Templates write strings as they are and everything else as JSON. Where the tool's schema says that the argument is
    a string it is one; otherwise a text that is JSON is that value.
    """
    kinds = schema.get("type")
    if kinds == "string" or kinds == ["string"]:
        return text
    try:
        return decode_json(text, 0)[0] if _whole(text) else text
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text.strip(), text)


def _whole(text: str) -> bool:
    """Tell whether a text is one JSON value and nothing else."""
    return not text[decode_json(text, 0)[1] :].strip()


def braced_value(text: str, start: int, quote: str) -> tuple[Any, int]:
    """Read ``{key:value,...}`` with unquoted keys, and strings between two ``quote`` marks, as Gemma 4 writes it.

    Returns:
        the value and where it ends.

    Raises:
        ValueError: it is not so.
    """
    if text.startswith(quote, start):
        end = text.find(quote, start + len(quote))
        if end < 0:
            raise ValueError(f"a string is not closed: {shorten(text[start:])}")
        return text[start + len(quote) : end], end + len(quote)
    if text[start : start + 1] in ("{", "["):
        return _braced_items(text, start, quote)
    return decode_json(text, start)


def _braced_items(text: str, start: int, quote: str) -> tuple[Any, int]:
    mapping = text[start] == "{"
    closing = "}" if mapping else "]"
    pairs: dict[str, Any] = {}
    items: list[Any] = []
    at = start + 1
    while not text.startswith(closing, at):
        if at >= len(text):
            raise ValueError(f"a tool call is not closed: {shorten(text[start:])}")
        key = ""
        if mapping:
            if text.startswith(quote, at):
                key, at = braced_value(text, at, quote)
                colon = at
            else:
                colon = text.find(":", at)
                key = text[at:colon]
            if not text.startswith(":", colon) or colon < 0:
                raise ValueError(f"a key has no value: {shorten(text[at:])}")
            at = colon + 1
        value, at = braced_value(text, at, quote)
        pairs[key] = value
        items.append(value)
        at += 1 if text.startswith(",", at) else 0
    return (pairs if mapping else items), at + 1


def shorten(text: str, limit: int = 80) -> str:
    """Return a text in one short line, for a message."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."
