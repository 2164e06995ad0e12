"""A row as plain text: what a base model is pre-trained on, and what filters and deduplication compare."""

from __future__ import annotations

import json
from typing import Any

Row = dict[str, Any]


def row_text(row: Row) -> str:
    """Return a row's text without roles, template markers and system turn, its parts separated by a blank line.

    A tool call is the text of its arguments (``ls -la``), a tool result its output. A system turn is left out because
    it is the same throughout a source: it would make different conversations look alike.
    """
    if "text" in row:
        return str(row["text"])
    parts: list[str] = []
    for message in row["messages"]:
        if message["role"] == "system":
            continue
        parts += [message.get("reasoning_content") or "", message["content"]]
        parts += [_arguments_text(call) for call in message.get("tool_calls", ())]
    return "\n\n".join(part for part in parts if part)


def document_text(row: Row) -> str:
    """Return what a base model is pre-trained on: the row's own `document`, if its adapter wrote one, or `row_text`.

    A benchmark scores the words that follow its own prompt. A base model can only have learned what follows if it has
    read that prompt in the same form, so adapters of such sets write the whole text themselves.
    """
    return str(row["document"]) if "document" in row else row_text(row)


def assistant_text(row: Row) -> str:
    """Return what the assistant says in a row, calls included; for a document, all of it."""
    if "text" in row:
        return str(row["text"])
    return row_text({"messages": [message for message in row["messages"] if message["role"] == "assistant"]})


def prompt_text(row: Row) -> str:
    """Return the user's turns before the first assistant turn; for a document, all of it."""
    if "text" in row:
        return str(row["text"])
    turns: list[str] = []
    for message in row["messages"]:
        if message["role"] == "assistant":
            break
        if message["role"] == "user":
            turns.append(message["content"])
    return "\n".join(turns)


def tokenizer_text(row: Row) -> str:
    """Return the text a tokenizer is trained on: `row_text` and the calls as the JSON that the template writes."""
    calls = [
        json.dumps(call["function"], ensure_ascii=False)
        for message in row.get("messages", ())
        for call in message.get("tool_calls", ())
    ]
    return "\n".join([row_text(row), *calls])


def _arguments_text(call: dict[str, Any]) -> str:
    # Without keys and braces, which every call of a tool shares: they would make different calls look alike.
    values = call["function"]["arguments"].values()
    return "\n".join(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)
