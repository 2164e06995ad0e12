"""Glaive function calling v2: a transcript in one string, taken apart without losing or altering anything.

What public parsers get wrong, and this one does not: (a) the arguments are JSON inside single quotes, and the text in
them has single quotes too; (b) a call may have no arguments, or an unquoted object; (c) turns have several lines;
(d) the tools are concatenated JSON objects, nested and with braces in strings; (e) text and call share a turn, a turn
is split in two, a user says nothing, a response follows no call; (f) calls are single and have no ids; (g) so no random
ones are made up either: a row is a function of its text.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from agentforge.data.sources.adapters.base import Raw, Rejected, Row, SourceOptions, conversation

_TURN = re.compile(r"(?:^|\n)[ \t]*(USER|ASSISTANT|FUNCTION RESPONSE):[ \t]?", re.DOTALL)
_CALL = "<functioncall>"
_END = "<|endoftext|>"
_QUOTED_ARGUMENTS = re.compile(r'"arguments"\s*:\s*\'(.*)\'\s*\}\s*$', re.DOTALL)
_NAME = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")', re.DOTALL)
_ROLES = {"USER": "user", "ASSISTANT": "assistant", "FUNCTION RESPONSE": "tool"}
_LAX = json.JSONDecoder(strict=False)


def glaive(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """Glaive v2: ``system`` with the tools, ``chat`` with the turns."""
    tools = read_tools(options.text(raw, "system"))
    if tools is None:
        return Rejected("tools are no JSON")
    turns: list[dict[str, Any]] = []
    for role, text in split_turns(options.text(raw, "chat")):
        made = _turn(role, text, turns)
        if made is None:
            return Rejected("tool call is no JSON")
        _append(turns, made)
    if turns and turns[0]["role"] != "user":
        return Rejected("does not start with the user")
    return conversation(turns, tools)


def split_turns(chat: str) -> list[tuple[str, str]]:
    """Split a transcript into (role, text), whatever stands between the turns; the end marks are removed."""
    marks = list(_TURN.finditer(chat))
    ends = [*(mark.start() for mark in marks[1:]), len(chat)]
    return [
        (_ROLES[mark[1]], chat[mark.end() : end].replace(_END, "").strip())
        for mark, end in zip(marks, ends, strict=False)
    ]


def read_tools(system: str) -> list[Any] | None:
    """Return the JSON objects that follow each other in the system text, None if one cannot be read."""
    position, tools = system.find("{"), []
    while position >= 0:
        try:
            tool, end = _LAX.raw_decode(system, position)
        except ValueError:
            return None
        tools.append(tool)
        position = system.find("{", end)
    return tools


def read_call(text: str) -> dict[str, Any] | None:
    """Read what follows ``<functioncall>``; None if it is no call."""
    text = text.strip()
    try:
        call, end = _LAX.raw_decode(text)
    except ValueError:
        return _read_quoted_call(text)
    return call if isinstance(call, dict) and not text[end:].strip() else None


def _read_quoted_call(text: str) -> dict[str, Any] | None:
    name, quoted = _NAME.match(text), _QUOTED_ARGUMENTS.search(text)
    if name is None or quoted is None:
        return None
    arguments = _read_arguments(quoted[1])
    return None if arguments is None else {"name": json.loads(name[1], strict=False), "arguments": arguments}


def _read_arguments(text: str) -> dict[str, Any] | None:
    """Read the text between the quotes: JSON, JSON with escaped quotes, or the literal of a Python dict."""
    if not text.strip():
        return {}
    # Inside single quotes an apostrophe is escaped, `it\'s`, which is no escape in JSON.
    for candidate in (text, text.replace("\\'", "'")):
        try:
            value = json.loads(candidate, strict=False)
        except ValueError:
            continue
        return value if isinstance(value, dict) else None
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _turn(role: str, text: str, before: list[dict[str, Any]]) -> dict[str, Any] | None:
    if role == "tool":
        calls = before[-1].get("tool_calls") if before else None
        name = {"name": (calls[0].get("function") or calls[0]).get("name")} if calls else {}
        return {"role": "tool", **name, "content": text}
    if role != "assistant" or _CALL not in text:
        return {"role": role, "content": text}
    content, _, call_text = text.partition(_CALL)
    if (call := read_call(call_text)) is None:
        return None
    return {"role": "assistant", "content": content.strip(), "tool_calls": [call]}


def _append(turns: list[dict[str, Any]], turn: dict[str, Any]) -> None:
    """Add a turn. Two assistant turns in a row are one, unless the first has called; empty ones are left out."""
    if turn["role"] == "assistant" and not turn["content"] and "tool_calls" not in turn:
        return
    last = turns[-1] if turns else None
    if last is not None and turn["role"] == last["role"] == "assistant" and "tool_calls" not in last:
        turn["content"] = "\n\n".join(part for part in (last["content"], turn["content"]) if part)
        turns[-1] = turn
    else:
        turns.append(turn)
