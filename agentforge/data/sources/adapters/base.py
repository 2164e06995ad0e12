"""What an adapter is: a function from a raw row to rows of messages or text, or to the reason why there is none."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Callable, ItemsView, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from typing import Any

from agentforge.data.messages import BadRow, normalize
from agentforge.data.tool_calls import THINK

Raw = Mapping[str, Any]
Row = dict[str, Any]

LEFT_OUT = "left_out"
"""Key of a row under which its adapter counts what of the raw row is not in it: name to number."""
BEFORE_FIRST_QUESTION, AFTER_LAST_ANSWER = "turns before the first question", "turns after the last answer"


class WatchedRow(dict[str, Any]):
    """A raw row that remembers which of its columns were read, so that the others can be listed."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        super().__init__(raw)
        self.read: set[str] = set()

    def __getitem__(self, column: str) -> Any:
        self.read.add(column)
        return super().__getitem__(column)

    def get(self, column: str, default: Any = None) -> Any:
        self.read.add(column)
        return super().get(column, default)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        self.read.update(self)
        return super().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        self.read.update(self)
        return super().values()

    def unread(self) -> list[str]:
        """Return the columns that hold something and were not read."""
        return [str(column) for column, value in super().items() if column not in self.read and holds_something(value)]


def holds_something(value: Any) -> bool:
    """Tell whether a cell says anything: not None, no NaN (of a table), and no empty text, list or object."""
    return value is not None and value == value and value != "" and value != [] and value != {}


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

    def text(self, raw: Raw, name: str) -> str:
        """Return that value as text; see `text_of`."""
        return text_of(self.get(raw, name), self.columns.get(name, name))


Adapter = Callable[[Raw, SourceOptions], Row | Rejected | list[Row]]
"""May raise `BadRow`, which rejects the raw row too."""

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "input": "user", "instruction": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "bot": "assistant", "ai": "assistant", "output": "assistant",
    "function_call": "call", "tool_call": "call", "function-call": "call", "tool_calls": "call",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_response": "tool", "function-response": "tool", "tool_result": "tool",
}  # fmt: skip
"""Role names met in public data to ours; ``call`` is an assistant turn whose content is a call."""


def text_of(value: Any, column: str) -> str:
    """Return a cell as text: a number as it is written, what holds nothing as empty.

    Raises:
        BadRow: it is a list, an object, or true or false. As text these would be JSON, which nobody said.
    """
    if not holds_something(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    raise BadRow(f"{column} is no text", f"the column {column} holds {type(value).__name__}, not text")


def texts_of(value: Any, column: str) -> list[str]:
    """Return a cell that holds a list of texts; None is an empty one.

    Raises:
        BadRow: it holds something else.
    """
    if not isinstance(value, list | None):
        raise BadRow(f"{column} is no list", f"the column {column} holds {type(value).__name__}, not a list")
    return [text_of(item, column) for item in value or []]


def read_value(text: str) -> Any:
    """Read a cell that holds a value as text: JSON or, as pandas and Toucan write it, a Python literal.

    Raises:
        ValueError: it is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text.strip())
        json.dumps(value)  # a set or bytes is no value of JSON
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("neither JSON nor a Python literal") from None
    return value


def conversation(
    turns: Sequence[Mapping[str, Any]], tools: Any = None, left_out: Mapping[str, int] | None = None
) -> Row | Rejected:
    """Return checked messages in the form of docs/architecture.md.

    Empty system turns are left out, and so is what stands after the last assistant turn: none of it would be trained.

    Args:
        turns: messages with our four roles; calls flat or nested; ``train: false`` on turns that are only read.
        tools: OpenAI tools, flat function descriptions, or the JSON text of a list of either.
        left_out: what the adapter did not take over; what is left out here is added.
    """
    counts = Counter(left_out or {})
    kept = [turn for turn in turns if turn["role"] != "system" or holds_something(turn.get("content"))]
    while kept and kept[-1]["role"] != "assistant":
        counts[AFTER_LAST_ANSWER] += 1
        kept.pop()
    if not kept:
        return Rejected("no assistant turn")
    try:
        messages = normalize(kept)
        offered = tool_schemas(tools, counts)
    except BadRow as error:
        return Rejected(error.reason)
    except (ValueError, RecursionError):
        return Rejected("tools are no JSON")
    if any(m["role"] in ("user", "assistant") and not _says_something(m) for m in messages):
        return Rejected("empty turn")
    if _goes_on_without_result(messages):
        return Rejected("call without result")
    if any(m["role"] == "assistant" and m["content"].lstrip().startswith(THINK) for m in messages):
        # `normalize` has taken closed reasoning out of the content; trained like this, the model would never answer.
        return Rejected("<think> without </think>")
    if not any(m["role"] == "assistant" and m.get("train", True) for m in messages):
        return Rejected("no trained turn")
    return {"messages": messages, **({"tools": offered} if offered else {}), **({LEFT_OUT: counts} if counts else {})}


def _goes_on_without_result(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a turn follows calls of which one has no result: an answer to it would be made up.

    A conversation that ends with calls is whole: what is trained is the calling.
    """
    open_calls = 0
    for message in messages:
        if message["role"] == "tool":
            open_calls -= 1
        elif open_calls:
            return True
        else:
            open_calls = len(message.get("tool_calls", ()))
    return False


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


_PARAMETERS = ("parameters", "input_schema", "inputSchema", "arguments")
"""Names of a tool's JSON schema: OpenAI's, Anthropic's, MCP's, xLAM's."""


def tool_schemas(tools: Any, left_out: Counter[str] | None = None) -> list[dict[str, Any]]:
    """Return tools as OpenAI writes them.

    Args:
        tools: a list, one tool, or either as text; each nested or flat, and text again or not.
        left_out: keys of tools that are not taken over are counted here.

    Raises:
        ValueError: it is no list of descriptions with names.
    """
    if isinstance(tools, str):
        tools = read_value(tools) if tools.strip() else []
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools or [], list):
        raise ValueError("the tools are no list")
    return [_tool_schema(tool, Counter() if left_out is None else left_out) for tool in tools or []]


def _tool_schema(tool: Any, left_out: Counter[str]) -> dict[str, Any]:
    if isinstance(tool, str):
        tool = read_value(tool)
    nested = isinstance(tool, Mapping) and isinstance(tool.get("function"), Mapping)
    function = tool["function"] if nested else tool
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a tool has no name")
    schema = next((key for key in _PARAMETERS if holds_something(function.get(key))), "parameters")
    parameters = function.get(schema)
    if isinstance(parameters, str):
        parameters = read_value(parameters) if parameters.strip() else None
    if not isinstance(parameters, Mapping | None) or not isinstance(function.get("description"), str | None):
        raise ValueError("a tool has a description that is no text, or parameters that are no object")
    kept = {"name": function["name"], "description": function.get("description"), "parameters": parameters}
    known = {"name", "description", schema, "type"}
    unread = [f"tools[].{key}" for key in function if key not in known and holds_something(function[key])]
    if nested:
        unread += [f"tools[].{key}" for key in tool if key not in ("function", "type") and holds_something(tool[key])]
    left_out.update(unread)
    return {"type": "function", "function": {key: value for key, value in kept.items() if value is not None}}
