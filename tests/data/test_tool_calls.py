"""The parser: what it reads back, and what it says about text it cannot read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.tool_calls import escape_tags, nested_call, parse_assistant, split_reasoning, unescape_tags

CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'
NESTED = {"type": "function", "function": {"name": "bash", "arguments": {"command": "ls"}}}


def test_text_reasoning_and_several_calls() -> None:
    turn = parse_assistant(f"<think>\nwhich?\n</think>\n\nI look.\n{CALL}\n{CALL}")
    assert (turn.content, turn.reasoning_content, turn.malformed) == ("I look.", "which?", [])
    assert turn.tool_calls == [NESTED, NESTED]
    assert turn.message()["role"] == "assistant"


@pytest.mark.parametrize(
    "arguments",
    ["</tool_call>", "<tool_call>", "</think>", '"} \\ \n', "日本 <&>' \u2028", "<\\tool_call>"],
)
def test_a_call_may_hold_any_text(arguments: str) -> None:
    body = json.dumps({"name": "bash", "arguments": {"command": arguments}}, ensure_ascii=False)
    turn = parse_assistant(f"<tool_call>\n{body}\n</tool_call>\n{CALL}")
    assert turn.malformed == []
    assert turn.tool_calls[0]["function"]["arguments"] == {"command": arguments}
    assert turn.tool_calls[1] == NESTED


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<tool_call>\n{'name': 'bash'}\n</tool_call>", "cannot be read"),
        ('<tool_call>\n{"name": "bash", "arguments": {"command": "ls"\n</tool_call>', "cannot be read"),
        ('<tool_call>\n{"name": "bash", "arguments": ["ls"]}\n</tool_call>', "no JSON object"),
        ('<tool_call>\n{"arguments": {}}\n</tool_call>', "has no name"),
        ("<tool_call>\n[1]\n</tool_call>", "no JSON object"),
        ('<tool_call>\n{"name": "bash", "arguments": {}}', "not closed"),
        ('<tool_call>\n{"name": "bash", "arguments": {}} and\n</tool_call>', "not closed"),
        ('<tool_call>\n{"name": "f", "arguments": {"x": NaN}}\n</tool_call>', "cannot be read"),
        ('<tool_call>\n{"name": "f", "arguments": {"x": 1e999}}\n</tool_call>', "cannot be read"),
        ('<tool_call>\n{"name": "f", "arguments": {"x": "\\ud800"}}\n</tool_call>', "cannot be read"),
        ("<tool_call>" + '{"a":' * 100_000, "cannot be read"),
        ("<think>\nand so on", "never closed"),
        ("done\n</tool_call>", "closes nothing"),
    ],
)
def test_malformed_markup_is_reported(text: str, problem: str) -> None:
    turn = parse_assistant(text)
    assert turn.tool_calls == []
    assert len(turn.malformed) == 1
    assert problem in turn.malformed[0]
    assert len(turn.malformed[0]) < 300


def test_a_broken_call_does_not_hide_its_neighbours() -> None:
    turn = parse_assistant(f"a\n{CALL}\n<tool_call>\n{{broken\n</tool_call>\n{CALL}\nb")
    assert len(turn.tool_calls) == 2
    assert len(turn.malformed) == 1
    assert turn.content == "a\nb"


def test_reasoning_without_its_opening_tag() -> None:
    """R1's prompt ends with the opening tag, so the recorded text starts in the middle."""
    turn = parse_assistant("I should list.\n</think>\n\nHere.")
    assert (turn.reasoning_content, turn.content) == ("I should list.", "Here.")
    assert split_reasoning(f"no reasoning\n{CALL.replace('ls', '</think>')}")[0] is None


@given(st.text(st.sampled_from("<>/\\thinkool_ca\n")) | st.text())
def test_unescape_is_the_inverse_of_escape(text: str) -> None:
    assert unescape_tags(escape_tags(text)) == text


@pytest.mark.parametrize("tag", ["<think>", "</think>", "<tool_call>", "</tool_call>", "<\\tool_call>", "<\\\\/think>"])
def test_an_escaped_tag_is_no_tag(tag: str) -> None:
    escaped = escape_tags(f"a {tag} b")
    assert escaped != f"a {tag} b"
    turn = parse_assistant(escaped)
    assert turn.content == f"a {tag} b"
    assert (turn.tool_calls, turn.malformed, turn.reasoning_content) == ([], [], None)


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    parse_assistant(text)
    parse_assistant(f"<tool_call>{text}</tool_call>")
    parse_assistant(f"<think>{text}<tool_call>")


@pytest.mark.parametrize(
    "call",
    [
        {"name": "bash", "arguments": {"command": "ls"}},
        {"name": "bash", "arguments": '{"command":"ls"}'},
        {"id": "1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}},
        NESTED,
    ],
)
def test_all_forms_of_a_call_are_one(call: dict) -> None:
    assert nested_call(call) == NESTED


@pytest.mark.parametrize("arguments", [None, "", "{}", {}])
def test_no_arguments_are_an_empty_object(arguments: object) -> None:
    assert nested_call({"name": "f", "arguments": arguments})["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["{'a': 1}", "[1]", "3", '{"a": 1} x', {"x": float("nan")}, 7, {"x": "\ud800"}])
def test_arguments_that_are_no_json_object_are_refused(arguments: object) -> None:
    with pytest.raises(ValueError):
        nested_call({"name": "f", "arguments": arguments})
