"""The action of a turn is found where it is said, and nowhere else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.environments.actions import ACT, act_tool, find_action, find_answer, without_reasoning


def call(action: object, name: str = ACT) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'action': action}})}\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Action: go north", "go north"),
        ("Thought: no idea\nAction: go north\n", "go north"),
        ("Thought:\nhm\n\nAction:\n\n  go north\nand so on", "go north"),
        ("action: a\nACTION: b", "b"),
        ("**Action:** `go north`", "go north"),
        ("- Action : go: north", "go: north"),
        ("<think>Action: a</think>\nAction: b", "b"),
        ("<thinking>Action: a</thinking>Action: b", "b"),
        ("Action: a\n<think>Action: b</think>", "a"),
        ("Action: a</think>Action: b", "b"),
        ("<think>Action: a", None),
        ("Action: a\n<think>but Action: b", "a"),
        ("<think>a</think><think>Action: b", None),
        ("Action: a\nAction:", None),
        ("Action:   ", None),
        ("I take no Action: really", None),
        ("go north", None),
        ("", None),
        (call("go north"), "go north"),
        ("Action: a\n" + call("b"), "b"),
        (call("a") + call("b"), "b"),
        (f"<think>{call('a')}</think>{call('b')}", "b"),
        (f"<think>{call('a')}", None),
        (call("say <think>x</think> aloud"), "say <think>x</think> aloud"),
        (call("say </think>"), "say </think>"),
        (f"<think>a</think>{call('say <think>')}", "say <think>"),
        ("Action: a\n" + call("b", name="other"), "a"),
        ("Action: a\n" + call(7), "a"),
        ("<tool_call>{broken", None),
    ],
)
def test_find_action(text: str, action: str | None) -> None:
    assert find_action(text) == action


def test_find_answer_is_the_call_or_what_is_shown() -> None:
    assert find_answer("<think>x1=False</think>\nx1=True") == "x1=True"
    assert find_answer("so\n" + call("x1=True")) == "x1=True"
    assert find_answer("<think>never ends") == ""


@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<thinking>", "</thinking>", "a", "\n", "Action: ", call("x")]))
)
def test_nothing_crashes(parts: list[str]) -> None:
    text = "".join(parts)
    find_action(text)
    find_answer(text)
    if "<tool_call>" not in text:
        assert "<think" not in without_reasoning(text)


def test_tool_is_a_schema_with_one_argument() -> None:
    tool = act_tool("Acts.", "go north")
    assert tool["function"]["name"] == ACT
    assert tool["function"]["parameters"]["required"] == ["action"]
