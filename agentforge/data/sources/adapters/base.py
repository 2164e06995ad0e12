"""What an adapter is: a function from a raw row to rows of messages or text, or to the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentforge.data.messages import BadRow, normalize

Raw = Mapping[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Rejected:
    """A raw row that cannot be used; `reason` is a few words, the same for all rows with that fault."""

    reason: str


@dataclass(frozen=True)
class SourceOptions:
    """What an adapter may need to know of its source.

    Attributes:
        columns: the adapter's name of a column to the file's name.
        split: the split that was asked for, of sets whose splits are not files (MBPP's are ranges of task ids).
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None

    def get(self, raw: Raw, name: str, default: Any = None) -> Any:
        """Return the raw row's value of the column that the adapter calls ``name``."""
        return raw.get(self.columns.get(name, name), default)


Adapter = Callable[[Raw, SourceOptions], Row | Rejected | list[Row]]

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant",
    "function_call": "call", "tool_call": "call",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_response": "tool",
}  # fmt: skip
"""Role names met in public data to ours; ``call`` is an assistant turn whose content is a call."""


def text_of(value: Any) -> str:
    """Return a cell as text: None becomes empty, anything but a string becomes JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def conversation(turns: Sequence[Mapping[str, Any]], tools: Any = None) -> Row | Rejected:
    """Return checked messages in the form of docs/architecture.md.

    Empty system turns are left out, and so is what stands after the last assistant turn: none of it would be trained.

    Args:
        turns: messages with our four roles; calls flat or nested.
        tools: OpenAI tools, flat function descriptions, or the JSON text of a list of either.
    """
    kept = [turn for turn in turns if turn["role"] != "system" or text_of(turn.get("content")).strip()]
    while kept and kept[-1]["role"] != "assistant":
        kept.pop()
    if not kept:
        return Rejected("no assistant turn")
    try:
        messages = normalize(kept)
        offered = tool_schemas(tools)
    except BadRow as error:
        return Rejected(error.reason)
    except ValueError:
        return Rejected("tools are no JSON")
    if any(m["role"] in ("user", "assistant") and not _says_something(m) for m in messages):
        return Rejected("empty turn")
    return {"messages": messages, **({"tools": offered} if offered else {})}


def _says_something(message: Mapping[str, Any]) -> bool:
    return bool(message["content"].strip() or message.get("tool_calls") or message.get("reasoning_content"))


def exchange(question: str, answer: str, system: str = "", document: str | None = None) -> Row | Rejected:
    """Return a conversation of one question and one answer.

    Args:
        question: turn of the user.
        answer: turn of the assistant.
        system: turn before them; empty: none.
        document: how the row reads in pre-training; None: question, empty line, answer.
    """
    turns = [
        {"role": "system", "content": system},
        {"role": "user", "content": question.strip()},
        {"role": "assistant", "content": answer.strip()},
    ]
    row = conversation(turns)
    return row if isinstance(row, Rejected) or document is None else {**row, "document": document.strip()}


def answered(question: str, answer: str) -> str:
    """Return a document in the form in which lm-evaluation-harness asks: its prompt, a space, the right answer."""
    return f"Question: {question.strip()}\nAnswer: {answer.strip()}"


def tool_schemas(tools: Any) -> list[dict[str, Any]]:
    """Return tools as OpenAI writes them.

    Raises:
        ValueError: it is no list of descriptions with names.
    """
    if isinstance(tools, str):
        tools = json.loads(tools) if tools.strip() else []
    if isinstance(tools, Mapping):
        tools = [tools]
    schemas = []
    for tool in tools or []:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError("a tool has no name")
        kept = {key: function[key] for key in ("name", "description", "parameters") if function.get(key) is not None}
        schemas.append({"type": "function", "function": kept})
    return schemas
