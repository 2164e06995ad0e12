"""A turn in a family's own form, in pieces of every size: what is shown adds up to what the whole turn says."""

from __future__ import annotations

from typing import Any

import pytest

from agentforge.data import chat_template as ct
from agentforge.data.dialects.rows import text_rows
from agentforge.data.messages import normalize
from agentforge.serving.dialect_turns import DialectStream
from agentforge.serving.turns import read_turn
from tests.data.dialects.families import base_tokenizer, here
from tests.data.small_tokenizers import TOOLS

NAMES = [family.name for family in here()]
CALL = {"type": "function", "function": {"name": "bash", "arguments": {"command": "ls"}}}
ANSWER = "The first < one.\n\nThat's <it>."


def said_by(name: str, **turn: Any) -> str:
    """Return a turn as a family's model would write it, without its stop token."""
    tokenizer = base_tokenizer(name)
    dialect = ct.dialect_of(tokenizer)
    messages = normalize([{"role": "user", "content": "Which?"}, {"role": "assistant", **turn}])
    (row,) = text_rows(ct.template_of(tokenizer), dialect, messages, TOOLS if "tool_calls" in turn else None)
    ((start, end),) = row.spans
    text = row.text[start:end]
    return text.removesuffix(dialect.call_stop if "tool_calls" in turn else dialect.stop)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_pieces_add_up(name: str, size: int) -> None:
    dialect = ct.dialect_of(base_tokenizer(name))
    turns: list[dict[str, Any]] = [{"content": ANSWER}]
    if dialect.reasoning != "dropped":
        turns.append({"content": ANSWER, "reasoning_content": "Let me see.\nIt is < so."})
    if dialect.calls and dialect.shows_tools and dialect.syntax:
        turns.append({"content": "", "tool_calls": [CALL]})
    for turn in turns:
        raw = said_by(name, **turn)
        stream = DialectStream(dialect=dialect, tools=TOOLS)
        deltas = [delta for at in range(0, len(raw), size) for delta in stream.feed(raw[at : at + size])]
        deltas += stream.finish()
        shown = {kind: "".join(text for found, text in deltas if found == kind) for kind in ("content", "reasoning")}
        whole = read_turn(raw, dialect=dialect, tools=TOOLS)
        assert shown["content"].strip() == whole.content == turn["content"]
        assert shown["reasoning"].strip() == (whole.reasoning or "") == turn.get("reasoning_content", "")
        assert whole.tool_calls == turn.get("tool_calls", [])
        assert not whole.problems


def test_a_call_that_cannot_be_read_is_text() -> None:
    dialect = ct.dialect_of(base_tokenizer("Qwen2.5"))
    raw = "Look:\n<tool_call>\n{broken\n</tool_call>"
    said = read_turn(raw, dialect=dialect, tools=TOOLS)
    assert said.tool_calls == []
    assert said.content == raw
    assert len(said.problems) == 1


def test_of_several_calls_one_is_kept_if_one_is_allowed() -> None:
    dialect = ct.dialect_of(base_tokenizer("Qwen2.5"))
    raw = said_by("Qwen2.5", content="", tool_calls=[CALL, CALL])
    stream = DialectStream(one_call=True, dialect=dialect, tools=TOOLS)
    stream.feed(raw)
    stream.finish()
    assert stream.said().tool_calls == [CALL]
