"""A turn in pieces is the turn as a whole."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentforge.rollouts.policies.policies import Conversation, Sampling
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.serving.turns import Delta, TurnStream, read_turn, speak

CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls </tool_call>"}}\n</tool_call>'
PIECES = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            CALL,
            "\n",
            "\n\n",
            " ",
            "<",
            "<\\",
            "<\\think>",
            "a b",
            "é",
            "{",
        ]
    ),
    max_size=10,
).map("".join)


def split(text: str, widths: list[int]) -> list[str]:
    chunks, start = [], 0
    for width in widths:
        chunks.append(text[start : start + width])
        start += width
    return [*chunks, text[start:]]


def collect(raw: str, widths: list[int], stop: tuple[str, ...] = ()) -> tuple[TurnStream, dict[str, str]]:
    stream = TurnStream(stop)
    deltas: list[Delta] = [delta for chunk in split(raw, widths) for delta in stream.feed(chunk)]
    deltas += stream.finish()
    joined = {kind: "".join(text for k, text in deltas if k == kind) for kind in ("content", "reasoning")}
    return stream, joined


def orphaned_end(raw: str) -> bool:
    """A </think> without its opening tag: what came before it was shown already."""
    head = raw.partition("<tool_call>")[0]
    return "</think>" in head and not raw.lstrip().startswith("<think>")


@given(PIECES, st.lists(st.integers(1, 5), max_size=40))
@example("<think>\nhm\n</think>\n\nok", [])
@example("<think>\nnever closed", [3])
@example(" text\n" + CALL + "\nafter", [4, 4])
def test_pieces_add_up_to_the_turn(raw: str, widths: list[int]) -> None:
    if orphaned_end(raw):
        return
    _, joined = collect(raw, widths)
    said = read_turn(raw)
    assert joined["content"] == said.content
    assert joined["reasoning"] == (said.reasoning or "")


@given(
    st.text("abX<", max_size=20), st.lists(st.integers(1, 3), max_size=20), st.sampled_from(["X", "aX", "abab", "<a"])
)
def test_a_stop_string_cuts_wherever_the_chunks_end(raw: str, widths: list[int], stop: str) -> None:
    stream, joined = collect(raw, widths, (stop,))
    before, found, _ = raw.partition(stop)
    assert (stream.raw, stream.stopped) == (before, bool(found))
    assert joined["content"] == before.strip()


def test_text_is_shown_as_it_comes_and_calls_are_not() -> None:
    stream = TurnStream()
    assert stream.feed("I look") == [("content", "I look")]
    assert stream.feed(" here. <tool") == [("content", " here.")]
    assert stream.feed("box is no call") == [("content", " <toolbox is no call")]
    assert stream.feed("\n" + CALL) == []


def test_unreadable_markup_is_text_and_never_a_call() -> None:
    said = read_turn(f"Look:\n{CALL}\n<tool_call>\n{{broken\n</tool_call>")
    assert said.tool_calls == [] and len(said.problems) == 1
    assert "{broken" in said.content and "Look:" in said.content


@pytest.mark.parametrize(
    ("text", "sampling", "stop", "reason"),
    [
        ("done", Sampling(50), (), "stop"),
        ("a long answer", Sampling(4), (), "length"),
        ("a long answer", Sampling(50), ("long",), "stop"),
        (CALL, Sampling(500), (), "tool_calls"),
        (CALL, Sampling(30), (), "length"),
    ],
)
def test_finish_reasons(text: str, sampling: Sampling, stop: tuple[str, ...], reason: str) -> None:
    spoken = speak(ScriptedPolicy(lambda _: text), Conversation([]), sampling, lambda _: None, stop=stop)
    assert spoken.finish_reason == reason
