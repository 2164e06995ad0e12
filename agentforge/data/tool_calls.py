"""The assistant's text and its parts: reasoning, content, tool calls.

An assistant turn is written as::

    <think>
    reasoning
    </think>

    content
    <tool_call>
    {"name": "bash", "arguments": {"command": "ls"}}
    </tool_call>

Content and reasoning may quote these very tags. A quoted tag gets a backslash when it is written (``<tool_call>``
becomes ``<\\tool_call>``, ``<\\tool_call>`` becomes ``<\\\\tool_call>``) and loses it when it is read, so that every
text survives the round trip and no quotation is taken for a call. Inside a call's JSON nothing is escaped: the decoder
knows where it ends.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

THINK, END_THINK = "<think>", "</think>"
CALL, END_CALL = "<tool_call>", "</tool_call>"

_SPACE = re.compile(r"\s*")
_QUOTED = re.compile(r"<(\\*)(/?(?:think|tool_call)>)")
_QUOTED_ESCAPED = re.compile(r"<\\(\\*)(/?(?:think|tool_call)>)")


@dataclass
class ParsedTurn:
    """What an assistant said.

    Attributes:
        content: the visible text.
        reasoning_content: the text between the think tags, None if there is none.
        tool_calls: nested calls with dict arguments, in order.
        malformed: one description for each thing that was meant as markup but cannot be read.
    """

    content: str = ""
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)

    def message(self) -> dict[str, Any]:
        """Return it as an assistant message, without the keys that would be empty."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning_content:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message


def parse_assistant(text: str) -> ParsedTurn:
    """Take an assistant turn apart.

    Args:
        text: what the model wrote, without the stop token.
    """
    turn = ParsedTurn()
    reasoning, text = split_reasoning(text)
    if reasoning is not None:
        turn.reasoning_content = unescape_tags(reasoning) or None
    elif text.lstrip().startswith(THINK):
        # Cut off while thinking: a call that stands in a thought was never made.
        turn.malformed.append("the reasoning is never closed with </think>")
        turn.reasoning_content = unescape_tags(_trim_newline(text.lstrip().removeprefix(THINK))) or None
        return turn
    parts: list[str] = []
    at = 0  # places in one text: a copy of the rest for each call would take minutes for ten thousand calls
    while (start := text.find(CALL, at)) >= 0:
        # Before the first call one newline is the template's and the
        # rest the content's own; between calls all space is layout.
        before = text[at:start]
        parts.append(before.strip() if parts else before.removesuffix("\n"))
        # The JSON decoder says where the arguments end, so a `</tool_call>` in one of their strings closes nothing.
        call, problem, at = _read_call(text, start + len(CALL))
        if call is not None:
            turn.tool_calls.append(call)
        if problem is not None:
            turn.malformed.append(problem)
    parts.append(text[at:].strip() if parts else text)
    if any(END_CALL in part for part in parts):
        turn.malformed.append("a </tool_call> closes nothing")
    turn.content = unescape_tags("\n".join(part for part in parts if part))
    return turn


def write_assistant(message: dict[str, Any]) -> str:
    """Return an assistant message as the text that `parse_assistant` takes apart; its calls are nested."""
    parts = (
        [f"{THINK}\n{escape_tags(thought)}\n{END_THINK}\n\n"] if (thought := message.get("reasoning_content")) else []
    )
    written = [escape_tags(content)] if (content := message.get("content")) else []
    for call in message.get("tool_calls") or []:
        written.append(f"{CALL}\n{json.dumps(call['function'], ensure_ascii=False)}\n{END_CALL}")
    return "".join([*parts, "\n".join(written)])


def split_reasoning(text: str) -> tuple[str | None, str]:
    """Split a text into its leading reasoning and the rest; None if it has no closed reasoning.

    R1 models are often recorded without the opening tag, because their prompt ends with it: what stands before a lone
    ``</think>`` is reasoning too. Calls end the search, since their arguments may contain anything.
    """
    body = text.lstrip()
    if body.startswith(THINK):
        body = body.removeprefix(THINK)
        before, found, after = body.partition(END_THINK)
    else:
        head, call, tail = text.partition(CALL)
        before, found, after = head.partition(END_THINK)
        after += call + tail
        # The end tag closes reasoning that starts in the middle of the text, and that is content.
        if THINK in before:
            return None, text
    if not found:
        return None, text
    rest = after[2:] if after.startswith("\n\n") else after.removeprefix("\n")
    return _trim_newline(before), rest


def escape_tags(text: str) -> str:
    """Mark quoted tags with one more backslash; the inverse of `unescape_tags`."""
    return _QUOTED.sub(r"<\1\\\2", text) if "<" in text else text


def unescape_tags(text: str) -> str:
    """Take one backslash from each marked tag."""
    return _QUOTED_ESCAPED.sub(r"<\1\2", text) if "<\\" in text else text


def nested_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call in the one form used inside: nested, dict arguments, nothing else.

    Args:
        call: flat ``{"name", "arguments"}`` or nested ``{"function": {...}}``; the arguments are a dict, a JSON string
            of one, or absent.

    Raises:
        ValueError: it has no name, or its arguments are no JSON object.
    """
    function = call.get("function") or call
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError("a tool call has no name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = load_json(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise ValueError(f"the arguments of the call of '{name}' are no JSON object")
    # NaN and lone surrogates fail here, where the call is known, instead of in the template or the tokenizer.
    _STRICT.encode(arguments).encode()
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def load_json(text: str) -> Any:
    """Read strict JSON: no NaN, no infinity, no lone surrogates.

    Raises:
        ValueError: it is not.
    """
    value, end = _decode(text, len(text) - len(text.lstrip()))
    if text[end:].strip():
        raise ValueError(f"more text after the JSON value: {_shorten(text[end:])}")
    return value


def _read_call(text: str, start: int) -> tuple[dict[str, Any] | None, str | None, int]:
    """Read the call whose opening tag ends at ``start``; returns call, problem and where the text goes on."""
    body = _after_space(text, start)
    # Only used if the JSON is broken: then this is the best guess of where the text goes on.
    closing = text.find(END_CALL, start)
    after = closing + len(END_CALL) if closing >= 0 else len(text)
    snippet = _shorten(text[start:after].removesuffix(END_CALL))
    try:
        value, end = _decode(text, body)
        if not isinstance(value, dict):
            return None, f"a tool call is no JSON object: {snippet}", after
        call = nested_call(value)
    except ValueError as error:
        return None, f"a tool call cannot be read ({error}): {snippet}", after
    end = _after_space(text, end)
    if not text.startswith(END_CALL, end):
        return None, f"a tool call is not closed with </tool_call>: {snippet}", after if closing >= end else len(text)
    return call, None, end + len(END_CALL)


def _after_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_STRICT = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _decode(text: str, start: int) -> tuple[Any, int]:
    try:
        value, end = _DECODER.raw_decode(text, start)
        # `1e999` is read as infinity and `\ud83d` as half a character; writing the value again finds both.
        _STRICT.encode(value).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value, end


def _trim_newline(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")


def _shorten(text: str, limit: int = 80) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 3] + "..."
