"""One turn of somebody's conversation in our form; whatever of it is not taken over is counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentforge.data.messages import BadRow, is_media, is_text
from agentforge.data.sources.adapters.base import (
    BEFORE_FIRST_QUESTION,
    ROLES,
    Rejected,
    holds_something,
    read_value,
)
from agentforge.data.tool_calls import CALL, END_CALL, parse_assistant, split_reasoning

Turn = dict[str, Any]

SWITCHES = ("train", "loss", "trainable", "weight")
"""Keys that say whether a turn is trained: of axolotl, ms-swift, LLM Studio and OpenAI."""
REASONING = ("reasoning_content", "reasoning", "thinking", "thought")
_ARGUMENTS = ("arguments", "parameters", "input", "args")
_BAD_CALL = Rejected("tool call is no JSON")


def read_turns(turns: Any, left_out: Counter[str]) -> list[Turn] | Rejected:
    """Return turns with our four roles, and ``train: false`` where a turn says that it is not trained.

    Args:
        turns: a list, or its text; of OpenAI (``role``, ``content``), ShareGPT (``from``, ``value``) or Anthropic.
        left_out: keys that are not read, and turns before the first question, are counted here.
    """
    if isinstance(turns, str):
        try:
            turns = read_value(turns)
        except ValueError:
            return Rejected("messages are no JSON")
    if isinstance(turns, Mapping):
        turns = [turns]
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        return Rejected("no conversation")
    made: list[Turn] = []
    for turn in turns:
        read = _read_turn(turn, left_out)
        if isinstance(read, Rejected):
            return read
        for one in read:
            if isinstance(problem := _append(made, one), Rejected):
                return problem
    return made


def from_first_question(turns: Sequence[Turn], left_out: Counter[str]) -> list[Turn]:
    """Return the turns without assistant turns (and what follows them) that answer nobody."""
    first = next((place for place, turn in enumerate(turns) if turn["role"] == "user"), len(turns))
    # ShareGPT's conversations are cut into pieces, of which many start with an answer.
    kept = [turn for turn in turns[:first] if turn["role"] == "system"]
    if dropped := first - len(kept):
        left_out[BEFORE_FIRST_QUESTION] += dropped
    return [*kept, *turns[first:]]


def _append(made: list[Turn], turn: Turn) -> Rejected | None:
    """Add a turn; a call in a turn of its own belongs to what the assistant has just said or called."""
    joins = turn.pop("joins", False)
    if not joins or not made or made[-1]["role"] != "assistant":
        made.append(turn)
        if joins:
            turn["calls_only"] = True
        return None
    last = made[-1]
    # Several calls in a row are one turn with several calls, but a turn that has finished with calls of its own is not.
    if "tool_calls" in last and not last.get("calls_only"):
        made.append(turn | {"calls_only": True})
        return None
    if last.get("train", True) != turn.get("train", True):
        return Rejected("half a turn is not trained")
    made[-1] = last | {"tool_calls": [*last.get("tool_calls", []), *turn["tool_calls"]], "calls_only": True}
    return None


def _read_turn(turn: Mapping[str, Any], left_out: Counter[str]) -> list[Turn] | Rejected:
    role_key = "role" if "role" in turn else "from"
    content_key = "content" if "content" in turn or role_key == "role" else "value"
    if not holds_something(turn.get(content_key)) and holds_something(turn.get("value")):
        content_key = "value"
    read = {role_key, content_key}
    role, value = ROLES.get(str(turn.get(role_key)).lower()), turn.get(content_key)
    if role is None:
        return Rejected("unknown role")
    if isinstance(value, Mapping) and role != "tool" and _kind(value):
        value = [value]  # a part by itself
    train = _is_trained(turn, read, role in ("assistant", "call"))
    if isinstance(train, Rejected):
        return train
    switch = {} if train else {"train": False}
    if role == "call":
        made = _call_turn(value, left_out)
    elif role == "tool":
        made = [_tool_turn(turn, value, read, left_out)]
    elif role == "assistant":
        made = _assistant_turn(turn, value, read, left_out)
    else:
        made = _user_turns(role, value, left_out)
    if isinstance(made, Rejected):
        return made
    left_out.update(f"messages[].{key}" for key in turn if key not in read and holds_something(turn[key]))
    return [one | switch if one["role"] == "assistant" else one for one in made]


def _is_trained(turn: Mapping[str, Any], read: set[str], answers: bool) -> bool | Rejected:
    """Tell whether a turn is trained; a question that asks for it keeps its key, which is then counted as not read."""
    train = True
    for key in SWITCHES:
        value = turn.get(key)
        if value is None:
            continue
        if value not in (0, 1):  # which False and True are
            return Rejected(f"{key} is neither 0 nor 1")
        if answers or not value:
            read.add(key)
        train = train and bool(value)
    return train


def _call_turn(value: Any, left_out: Counter[str]) -> list[Turn] | Rejected:
    calls = _calls(value, left_out)
    return calls if isinstance(calls, Rejected) else [_calling(calls)]


def _calling(calls: list[Turn]) -> Turn:
    return {"role": "assistant", "content": "", "tool_calls": calls, "joins": True}


def _tool_turn(turn: Mapping[str, Any], value: Any, read: set[str], left_out: Counter[str]) -> Turn:
    if isinstance(value, list) and _all_text(value):  # any other list is written as JSON, with all its keys
        _count_part_keys(value, left_out)
    read |= {"tool_call_id", "call_id", "tool_use_id"}
    id = next((turn[key] for key in ("tool_call_id", "call_id", "tool_use_id") if holds_something(turn.get(key))), None)
    named = {"name": turn["name"]} if isinstance(turn.get("name"), str) else {}
    read.update(named)
    return {
        "role": "tool",
        **named,
        **({} if id is None else {"tool_call_id": id}),
        "content": _unwrap_response(value),
    }


def _unwrap_response(value: Any) -> Any:
    inner = value.strip() if isinstance(value, str) else ""
    if inner.startswith("<tool_response>") and inner.endswith("</tool_response>"):
        return inner.removeprefix("<tool_response>").removesuffix("</tool_response>").strip()
    return value


def _user_turns(role: str, value: Any, left_out: Counter[str]) -> list[Turn]:
    """Return a system or user turn, and before it the results that Anthropic puts into the user's content."""
    parts, results = value, list[Turn]()
    if isinstance(value, list) and any(_kind(part) == "tool_result" for part in value):
        parts = [part for part in value if _kind(part) != "tool_result"]
        for part in value:
            if _kind(part) == "tool_result":
                results.append(_tool_turn(part, part.get("content"), set(), left_out))
                _count_keys(part, {"type", "tool_use_id", "content", "name"}, left_out)
    _count_part_keys(parts, left_out)
    said = [{"role": role, "content": parts}] if holds_something(parts) or not results else []
    return [*results, *said]


def _assistant_turn(
    turn: Mapping[str, Any], value: Any, read: set[str], left_out: Counter[str]
) -> list[Turn] | Rejected:
    read |= {"tool_calls", "function_call"}
    thoughts, content, used = _split_parts(value, left_out)
    # True or false says whether to think, not what was thought: it is counted as not read.
    given = (key for key in REASONING if holds_something(turn.get(key)) and not isinstance(turn[key], bool))
    if (key := next(given, None)) is not None:
        read.add(key)
        thoughts.insert(0, _thought(turn[key]))
    if not holds_something(content) and isinstance(refusal := turn.get("refusal"), str):
        read.add("refusal")
        content = refusal
    called = turn.get("tool_calls") or turn.get("function_call")
    if turn.get("tool_calls") and holds_something(turn.get("function_call")):
        left_out["messages[].function_call"] += 1
    calls = _calls(called, left_out) if called else []
    if isinstance(calls, Rejected):
        return calls
    calls = [*used, *calls]
    message: Turn = {"role": "assistant", "content": content}
    if isinstance(content, str) and CALL in content and not calls:
        parsed = parse_assistant(_python_calls_as_json(content))
        if parsed.malformed:
            return _BAD_CALL
        message = parsed.message()
        # Beside a call in the text the reasoning may stand in a key of its own, where the parser does not see it.
        thoughts += [parsed.reasoning_content] if parsed.reasoning_content else []
    elif thoughts and isinstance(content, str):
        thought, message["content"] = split_reasoning(content)
        thoughts += [thought] if thought else []
    if thoughts:
        message["reasoning_content"] = "\n\n".join(dict.fromkeys(thoughts))
    if calls:
        message["tool_calls"] = calls
    return [message]


def _split_parts(value: Any, left_out: Counter[str]) -> tuple[list[str], Any, list[Turn]]:
    """Return the reasoning, the rest and the calls of an assistant's content, which may be a list of typed parts."""
    if not isinstance(value, list):
        return [], value, []
    thoughts, rest, calls = list[str](), list[Any](), list[Turn]()
    for part in value:
        kind = _kind(part)
        if kind in ("thinking", "reasoning") and (key := next((k for k in (kind, "text") if part.get(k)), None)):
            thoughts.append(_thought(part[key]))
            _count_keys(part, {"type", key}, left_out)
        elif kind == "tool_use":
            calls.append({"id": part.get("id"), "name": part.get("name"), "arguments": part.get("input")})
            _count_keys(part, {"type", "id", "name", "input"}, left_out)
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            rest.append(part["refusal"])
            _count_keys(part, {"type", "refusal"}, left_out)
        else:
            rest.append(part)
            _count_part_keys([part], left_out)
    # Joined here already: calls may stand in the text.
    whole = _joined(rest) if _all_text(rest) else rest
    return thoughts, whole, calls


def _thought(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    if not _all_text(parts):
        raise BadRow("reasoning is no text", "the reasoning is neither text nor a list of text parts")
    return _joined(parts)


def _joined(parts: Sequence[Any]) -> str:
    return "".join(part if isinstance(part, str) else part["text"] for part in parts)


def _all_text(parts: Sequence[Any]) -> bool:
    return all(is_text(part) and not is_media(part) for part in parts)


def _kind(part: Any) -> str:
    return str(part.get("type", "")) if isinstance(part, Mapping) else ""


def _count_part_keys(parts: Any, left_out: Counter[str]) -> None:
    """Count what text parts hold beside their text; a row with any other part is rejected by `normalize`."""
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, Mapping) and is_text(part) and not is_media(part):
            _count_keys(part, {"type", "text"}, left_out)


def _count_keys(part: Mapping[str, Any], read: Iterable[str], left_out: Counter[str]) -> None:
    left_out.update(f"messages[].content[].{key}" for key in part if key not in read and holds_something(part[key]))


def _calls(value: Any, left_out: Counter[str]) -> list[Turn] | Rejected:
    """Read calls: one or a list; as objects, JSON or a Python literal; nested or flat; with any name of arguments."""
    try:
        value = read_value(value) if isinstance(value, str) else value
        calls = [_call(call, left_out) for call in (value if isinstance(value, list) else [value])]
    except ValueError:
        return _BAD_CALL
    return calls or _BAD_CALL


def _call(call: Any, left_out: Counter[str]) -> Turn:
    call = read_value(call) if isinstance(call, str) else call
    if not isinstance(call, Mapping):
        raise ValueError("a call is no object")
    nested = isinstance(call.get("function"), Mapping)
    function = call["function"] if nested else call
    key = next((key for key in _ARGUMENTS if function.get(key) is not None), "arguments")
    arguments = function.get(key)
    if isinstance(arguments, str) and arguments.strip():
        arguments = read_value(arguments)
        # written twice, as text of text
        arguments = read_value(arguments) if isinstance(arguments, str) else arguments
    read = {"id", "call_id", "type", "index", "name", key}
    places = [call, function] if nested else [call]
    known = read | {"function"} if nested else read
    left_out.update(
        f"messages[].tool_calls[].{key}"
        for place in places
        for key in place
        if key not in known and holds_something(place[key])
    )
    id = next((call[key] for key in ("id", "call_id") if holds_something(call.get(key))), None)
    return {"id": id, "name": function.get("name"), "arguments": arguments}


def _python_calls_as_json(text: str) -> str:
    """Write calls that stand as Python dicts between the tags as JSON; whatever else stands there stays as it is."""
    parts = text.split(CALL)
    for place, part in enumerate(parts[1:], 1):
        body, closed, after = part.rpartition(END_CALL) if part.count(END_CALL) == 1 else ("", "", "")
        try:
            if closed and isinstance(call := read_value(body), dict):
                parts[place] = f"\n{json.dumps(call, ensure_ascii=False)}\n{closed}{after}"
        except ValueError:
            continue
    return CALL.join(parts)
