"""The messages and tools of a request, checked with the path of whatever is wrong in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from agentforge.data.messages import Message
from agentforge.errors import did_you_mean
from agentforge.serving.openai_errors import read_json, refuse

ROLES = ("system", "developer", "user", "assistant", "tool")
KEYS = {
    "system": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    "tool": {"role", "content", "name", "tool_call_id"},
    "assistant": {"role", "content", "name", "tool_calls", "reasoning_content", "refusal", "annotations"},
}
NULL_ONLY = ("refusal", "audio", "function_call")
"""What clients echo from an answer of ours as null. With a value they say something that no template here can show."""
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")


def checked_messages(messages: Sequence[Any]) -> list[Message]:
    """Return messages that a chat template can render, tool results in the order of the calls that they answer.

    Raises:
        BadRequest: a message is none, with the path of what is wrong.
    """
    checked: list[Message] = []
    position = 0
    while position < len(messages):
        path = f"messages[{position}]"
        message = _checked_message(messages[position], path, first=position == 0)
        if message["role"] == "tool":
            refuse(path, "a tool result without a call before it: no assistant message with tool_calls precedes it")
        checked.append(message)
        position += 1
        if calls := message.get("tool_calls"):
            results = _results(messages, position, [call["id"] for call in calls], path)
            checked += results
            position += len(results)
    return checked


def _results(messages: Sequence[Any], start: int, ids: list[str], caller: str) -> list[Message]:
    """Return the tool messages that answer a turn's calls, in the order of the calls.

    Clients run calls side by side and send the results as they come. The template writes no ids, so the model knows a
    result by its place only: in another order it would read them as the answers to the wrong calls.
    """
    results: dict[str, Message] = {}
    for position in range(start, min(start + len(ids), len(messages))):
        path = f"messages[{position}]"
        if not isinstance(messages[position], Mapping) or messages[position].get("role") != "tool":
            break
        message = _checked_message(messages[position], path)
        identity = message["tool_call_id"]
        if identity not in ids:
            refuse(f"{path}.tool_call_id", f"'{identity}' is not one of the calls of {caller}: {', '.join(ids)}")
        if identity in results:
            refuse(f"{path}.tool_call_id", f"'{identity}' has already been answered")
        results[identity] = message
    if missing := [identity for identity in ids if identity not in results]:
        refuse(f"{caller}.tool_calls", f"no tool message after it answers {', '.join(missing)}")
    return [results[identity] for identity in ids]


def _checked_message(message: Any, path: str, first: bool = False) -> Message:
    if not isinstance(message, Mapping):
        refuse(path, "a message must be an object with a role and a content")
    role = message.get("role")
    if role not in ROLES:
        refuse(f"{path}.role", f"the role {role!r} is not one of {', '.join(ROLES)}")
    role = "system" if role == "developer" else role  # OpenAI's newer name for the same turn
    if role == "system" and not first:
        refuse(f"{path}.role", "a system message must be the first; put all instructions into one")
    for key, value in message.items():
        if key in NULL_ONLY and value is None:
            continue
        if key in NULL_ONLY or key not in KEYS[role]:
            known = sorted(KEYS[role].difference(NULL_ONLY))
            refuse(f"{path}.{key}", f"this field of a {role} message is not supported{did_you_mean(key, known)}")
    checked: Message = {"role": role, "content": _text(message.get("content"), f"{path}.content", role)}
    if role == "tool":
        if not isinstance(message.get("tool_call_id"), str):
            refuse(f"{path}.tool_call_id", "a tool message must have the id of the call that it answers")
        checked["tool_call_id"] = message["tool_call_id"]
    if role == "assistant":
        checked |= _said(message, path)
    return checked


def _said(message: Mapping[str, Any], path: str) -> Message:
    """Return the reasoning and the calls of an assistant message."""
    said: Message = {}
    if message.get("reasoning_content") is not None:
        said["reasoning_content"] = _text(message["reasoning_content"], f"{path}.reasoning_content", "assistant")
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        refuse(f"{path}.tool_calls", "it must be a list of calls")
    checked = [_call(call, f"{path}.tool_calls[{index}]") for index, call in enumerate(calls or [])]
    ids = [call["id"] for call in checked]
    for index, identity in enumerate(ids):
        if identity in ids[:index]:
            refuse(f"{path}.tool_calls[{index}].id", f"another call already has the id '{identity}'")
    return said | ({"tool_calls": checked} if checked else {})


def _call(call: Any, path: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        refuse(path, 'a call must be {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}')
    if not isinstance(call.get("id"), str):
        refuse(f"{path}.id", "a call must have an id, which its tool message repeats")
    if call.get("type", "function") != "function":
        refuse(f"{path}.type", f"only function calls are supported, not {call['type']!r}")
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        refuse(f"{path}.function.name", "a call must name its function")
    arguments = _arguments(function.get("arguments"), f"{path}.function.arguments")
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _arguments(arguments: Any, path: str) -> dict[str, Any]:
    """Return a call's arguments: an object, or the text of one as OpenAI sends it (an empty text: none)."""
    if isinstance(arguments, str):
        try:
            arguments = read_json(arguments) if arguments.strip() else {}
        except ValueError as error:
            refuse(path, f"the arguments are not valid JSON: {error}")
    if not isinstance(arguments, dict | None):
        refuse(path, "the arguments must be a JSON object")
    return arguments or {}


def _text(content: Any, path: str, role: str) -> str:
    """Return a content as text: a string, or text parts joined."""
    if content is None and role == "assistant":
        return ""  # a turn of nothing but calls
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        refuse(path, f"the content of a {role} message must be a string or a list of text parts")
    return "".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text":
        refuse(f"{path}.type", f"only text parts can be read here, not {kind!r}")
    if not isinstance(part.get("text"), str):
        refuse(f"{path}.text", "a text part must have a text")
    return str(part["text"])


def checked_tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Return tools that can be offered.

    Raises:
        BadRequest: a tool is none, with the path of what is wrong.
    """
    names: list[str] = []
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        if isinstance(tool, Mapping) and tool.get("type", "function") != "function":
            refuse(f"{path}.type", f"only functions can be offered, not {tool['type']!r}")
        if not isinstance(tool, Mapping) or not isinstance(tool.get("function"), Mapping):
            refuse(path, 'a tool must be {"type": "function", "function": {"name": ..., "parameters": ...}}')
        names.append(_checked_function(tool["function"], f"{path}.function"))
        if names[-1] in names[:-1]:
            refuse(f"{path}.function.name", f"another tool is called '{names[-1]}' already")
    return list(tools)


def _checked_function(function: Mapping[str, Any], path: str) -> str:
    name = function.get("name")
    if not isinstance(name, str) or not FUNCTION_NAME.fullmatch(name):
        refuse(f"{path}.name", "a function's name is 1 to 64 letters, digits, dots, dashes and underscores")
    if not isinstance(function.get("description"), str | None):
        refuse(f"{path}.description", "a description must be a string")
    parameters = function.get("parameters")
    if not isinstance(parameters, dict | None):
        refuse(f"{path}.parameters", "the parameters are a JSON schema, an object")
    if parameters and parameters.get("type", "object") != "object":
        refuse(f"{path}.parameters.type", "the parameters must be of type object")
    if not isinstance(function.get("strict"), bool | None):
        refuse(f"{path}.strict", "strict is true or false")
    return name
