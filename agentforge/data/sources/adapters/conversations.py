"""Sets that are conversations already: OpenAI messages (UltraChat, Toucan), ShareGPT, WildChat."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from agentforge.data.sources.adapters.base import ROLES, Raw, Rejected, Row, SourceOptions, conversation, text_of
from agentforge.data.tool_calls import CALL, parse_assistant


def messages(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """OpenAI or ChatML messages, as a list or as its JSON text; calls flat or nested, arguments a dict or a string."""
    turns = options.get(raw, "messages")
    if isinstance(turns, str):
        try:
            turns = json.loads(turns)
        except ValueError:
            return Rejected("messages are no JSON")
    return _conversation(turns, options.get(raw, "tools"), role="role", content="content")


def sharegpt(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """ShareGPT: ``conversations`` of ``from`` and ``value``, calls as ``function_call`` turns."""
    turns = options.get(raw, "conversations")
    # Many data sets use ShareGPT's column name with OpenAI's turns.
    if isinstance(turns, list) and turns and isinstance(turns[0], Mapping) and "role" in turns[0]:
        return _conversation(turns, options.get(raw, "tools"), role="role", content="content")
    made = _conversation(turns, options.get(raw, "tools"), role="from", content="value")
    if isinstance(made, Rejected) or not (system := text_of(options.get(raw, "system")).strip()):
        return made
    if made["messages"][0]["role"] == "system":
        return made
    return made | {"messages": [{"role": "system", "content": system}, *made["messages"]]}


def wildchat(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """WildChat: role and content of each turn, and none of its IP hashes, headers, places and moderation scores."""
    turns = options.get(raw, "conversation")
    if not isinstance(turns, list):
        return Rejected("no conversation")
    bare = [{"role": turn.get("role"), "content": turn.get("content")} for turn in turns if isinstance(turn, Mapping)]
    return _conversation(bare, None, role="role", content="content")


def _conversation(turns: Any, tools: Any, role: str, content: str) -> Row | Rejected:
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return Rejected("no conversation")
    made: list[dict[str, Any]] = []
    names: dict[str, Any] = {}
    for turn in turns:
        message = _message(turn, role, content, names)
        if isinstance(message, Rejected):
            return message
        if message["role"] == "assistant" and not any(m["role"] == "user" for m in made):
            continue  # ShareGPT's conversations are cut into pieces, of which many start with an answer
        # A call in a turn of its own belongs to what the assistant has just said.
        if message.pop("joins", False) and made and made[-1]["role"] == "assistant" and "tool_calls" not in made[-1]:
            made[-1] = made[-1] | {"tool_calls": message["tool_calls"]}
        else:
            made.append(message)
    return conversation(made, tools)


def _message(
    turn: Mapping[str, Any], role_key: str, content_key: str, names: dict[str, Any]
) -> dict[str, Any] | Rejected:
    """Translate one turn.

    Args:
        names: call id to tool name; filled by assistant turns, read by tool results that have no name themselves.
    """
    role = ROLES.get(str(turn.get(role_key)).lower())
    value = turn.get(content_key)
    if role is None:
        return Rejected("unknown role")
    if role == "call":
        calls = _calls_in_text(value)
        if calls is None:
            return Rejected("tool call is no JSON")
        return {"role": "assistant", "content": "", "tool_calls": calls, "joins": True}
    if role == "tool":
        name = turn.get("name") or names.get(str(turn.get("tool_call_id", "")))
        return {"role": "tool", **({"name": name} if isinstance(name, str) else {}), "content": _unwrap_response(value)}
    message: dict[str, Any] = {"role": role, "content": value}
    if role == "assistant":
        return _assistant(message, turn, names)
    return message


def _assistant(message: dict[str, Any], turn: Mapping[str, Any], names: dict[str, Any]) -> dict[str, Any] | Rejected:
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if not isinstance(calls, list):
        return Rejected("tool call is no JSON")
    reasoning = turn.get("reasoning_content") or turn.get("reasoning")
    if isinstance(message["content"], str) and CALL in message["content"] and not calls:
        parsed = parse_assistant(message["content"])
        # Beside a call in the text the reasoning may stand in a key of its own, where the parser does not see it.
        thoughts = [part for part in (text_of(reasoning), parsed.reasoning_content) if part]
        parsed.reasoning_content = "\n\n".join(thoughts) or None
        return Rejected("tool call is no JSON") if parsed.malformed else parsed.message()
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
        names.update({str(call["id"]): _called(call) for call in calls if isinstance(call, Mapping) and call.get("id")})
    return message


def _called(call: Mapping[str, Any]) -> Any:
    function = call.get("function", call)
    return function.get("name") if isinstance(function, Mapping) else None


def _calls_in_text(value: Any) -> list[Any] | None:
    """Read a ``function_call`` turn: one call or a list of them, as JSON or (Toucan) as a Python literal."""
    if isinstance(value, str):
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(value)
                break
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    calls = value if isinstance(value, list) else [value]
    return calls if calls and all(isinstance(call, Mapping) for call in calls) else None


def _unwrap_response(value: Any) -> str:
    text = text_of(value)
    inner = text.strip()
    if inner.startswith("<tool_response>") and inner.endswith("</tool_response>"):
        return inner.removeprefix("<tool_response>").removesuffix("</tool_response>").strip()
    return text
