"""A turn in pieces is the turn as a whole."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentforge.rollouts.policies.base import Conversation, Sampling
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.rollouts.policies.steering import Steering
from agentforge.serving.speaking import speak
from agentforge.serving.turns import Delta, TurnStream, read_turn

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


def collect(
    raw: str, widths: list[int], stop: tuple[str, ...] = (), **options: bool
) -> tuple[TurnStream, dict[str, str]]:
    stream = TurnStream(stop, **options)
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


@given(PIECES, st.lists(st.integers(1, 5), max_size=40))
@example("Now.\n" + CALL + "\n" + CALL + "after", [7, 7])
@example(CALL + "\n<tool_call>\n{broken", [])
@example("<tool_call>\n{broken\n</tool_call>\n" + CALL, [])
def test_one_call_is_the_first_wherever_the_chunks_end(raw: str, widths: list[int]) -> None:
    stream, joined = collect(raw, widths, one_call=True)
    said = stream.said()
    assert len(said.tool_calls) <= 1 and raw.startswith(stream.raw)
    if not orphaned_end(raw):
        assert joined["content"] == said.content
    if not stream.stopped:
        assert stream.raw == raw and not said.tool_calls
    everything = read_turn(raw)
    if everything.tool_calls:
        assert said.tool_calls == everything.tool_calls[:1]


JSONISH = st.lists(st.sampled_from(['"', "{", "}", "<tool_call>", "<\\think>", "</think>", "\n ", "é"]), max_size=8)


@given(JSONISH.map("".join), st.lists(st.integers(1, 5), max_size=20))
def test_json_goes_through_as_it_stands(body: str, widths: list[int]) -> None:
    raw = "{" + body
    stream, joined = collect(raw, widths, verbatim=True)
    assert joined == {"content": raw, "reasoning": ""} and stream.said().content == raw


def test_a_turn_held_to_json_may_be_a_call_instead() -> None:
    stream, joined = collect(CALL, [3, 9], verbatim=True)
    assert len(stream.said().tool_calls) == 1 and joined["content"] == ""


def test_a_call_that_is_nested_too_deeply_is_text() -> None:
    """It would end every later turn: rendering the history walks down it, one Python frame a level."""
    deep = '<tool_call>\n{"name": "f", "arguments": {"a": ' + "[" * 400 + "]" * 400 + "}}\n</tool_call>"
    said = read_turn(deep)
    assert said.tool_calls == [] and "nested too deeply" in said.problems[0] and said.content.startswith("<tool_call>")


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
    policy, stream = ScriptedPolicy(lambda _: text), TurnStream(stop)
    spoken = speak(policy, Conversation([]), Steering(sampling), lambda *_: None, stream)
    assert spoken.finish_reason == reason
