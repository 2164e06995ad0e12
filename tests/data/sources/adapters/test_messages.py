"""Messages with tool calls: every form that clients and sets write becomes one form, and no call is lost."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.messages import BadRow
from agentforge.data.sources.adapters import Rejected, SourceOptions, get_adapter

ARGUMENTS = {"command": "docker ps", "flags": ["-a", "it's"], "n": 3}
EXPECTED = {"type": "function", "function": {"name": "bash", "arguments": ARGUMENTS}}

messages = get_adapter("messages")
sharegpt = get_adapter("sharegpt")


def adapt(turns: Any, **more: Any) -> Any:
    return messages({"messages": turns, **more}, SourceOptions())


def asked(*turns: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "List running containers"}, *turns]


def test_the_example_of_the_original_keeps_its_call_and_its_result() -> None:
    """Facts 1.1: the original dropped `tool_calls` and `role: tool`, so that the agent part was never trained."""
    turns = [
        {"role": "system", "content": "You are AJ..."},
        {"role": "user", "content": "List running containers"},
        {"role": "assistant", "tool_calls": [{"name": "bash", "arguments": {"command": "docker ps"}}]},
        {"role": "tool", "content": "CONTAINER ID  IMAGE  ..."},
        {"role": "assistant", "content": "Here are 3 running containers..."},
    ]
    row = adapt(turns)
    call = {"type": "function", "function": {"name": "bash", "arguments": {"command": "docker ps"}}}
    assert row["messages"][2] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert row["messages"][3] == {"role": "tool", "content": "CONTAINER ID  IMAGE  ..."}
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("as_text", [True, False])
def test_flat_and_nested_calls_with_dict_and_string_arguments(nested: bool, as_text: bool) -> None:
    flat = {"name": "bash", "arguments": json.dumps(ARGUMENTS) if as_text else ARGUMENTS}
    call = {"id": "call_1", "type": "function", "function": flat} if nested else flat
    row = adapt(asked({"role": "assistant", "content": None, "tool_calls": [call]}))
    assert row["messages"][1]["tool_calls"] == [EXPECTED]


def test_the_old_function_call_key_and_the_name_of_a_result_are_found() -> None:
    old = asked(
        {"role": "assistant", "content": "", "function_call": {"name": "bash", "arguments": json.dumps(ARGUMENTS)}},
        {"role": "function", "name": "bash", "content": "ok"},
        {"role": "assistant", "content": "Done."},
    )
    assert adapt(old)["messages"][1]["tool_calls"] == [EXPECTED]
    new = asked(
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "7", "function": {"name": "bash", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "7", "content": "ok"},
        {"role": "assistant", "content": "Done."},
    )
    assert adapt(new)["messages"][2] == {"role": "tool", "name": "bash", "content": "ok"}


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(
    ("thought", "kept"), [("", "Look."), ("<think>\nAnd list.\n</think>\n\n", "Look.\n\nAnd list.")]
)
def test_reasoning_beside_a_call_in_the_text_is_kept(key: str, thought: str, kept: str) -> None:
    text = f"{thought}<tool_call>\n{json.dumps(EXPECTED['function'])}\n</tool_call>"
    row = adapt(asked({"role": "assistant", "content": text, key: "Look."}))
    assert row["messages"][1]["reasoning_content"] == kept
    assert row["messages"][1]["tool_calls"] == [EXPECTED]


def test_hermes_text_calls_become_calls() -> None:
    turns = [
        {"from": "system", "value": ""},
        {"from": "human", "value": "ls"},
        {"from": "gpt", "value": 'Sure.\n<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'},
        {"from": "tool", "value": "<tool_response>\na b\n</tool_response>"},
        {"from": "gpt", "value": "Two files."},
    ]
    row = sharegpt({"conversations": turns}, SourceOptions())
    assert row["messages"][1]["content"] == "Sure."
    assert row["messages"][1]["tool_calls"][0]["function"] == {"name": "bash", "arguments": {"command": "ls"}}
    assert row["messages"][2]["content"] == "a b"
    broken = [*turns[:2], {"from": "gpt", "value": "<tool_call>\n{not json\n</tool_call>"}]
    assert sharegpt({"conversations": broken}, SourceOptions()) == Rejected("tool call is no JSON")


def test_words_and_a_call_in_two_turns_are_one_turn_and_reasoning_stays() -> None:
    row = sharegpt(
        {
            "conversations": [
                {"from": "human", "value": "ls"},
                {"from": "gpt", "value": "I look."},
                {"from": "function_call", "value": '[{"name": "bash", "arguments": {"command": "ls"}}]'},
                {"from": "observation", "value": {"files": 2}},
                {"from": "gpt", "value": "Two."},
            ]
        },
        SourceOptions(),
    )
    assert [m["role"] for m in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["messages"][1]["content"] == "I look." and row["messages"][1]["tool_calls"]
    assert row["messages"][2]["content"] == '{"files": 2}'
    thought = adapt(asked({"role": "assistant", "content": "Three.", "reasoning_content": "count them"}))
    assert thought["messages"][1] == {"role": "assistant", "content": "Three.", "reasoning_content": "count them"}


CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "bash", "arguments": {}}]}


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (asked(), "no assistant turn"),
        ([], "no assistant turn"),
        ([{"role": "assistant", "content": "Hello!"}], "no assistant turn"),
        (asked({"role": "assistant", "tool_calls": [{"name": "bash", "arguments": "{ls"}]}), "tool call is no JSON"),
        (asked({"role": "assistant", "tool_calls": [{"name": "bash", "arguments": "[1]"}]}), "tool call is no JSON"),
        (asked({"role": "assistant", "tool_calls": [{"arguments": {}}]}), "tool call is no JSON"),
        (asked({"role": "assistant", "tool_calls": "bash"}), "tool call is no JSON"),
        (asked({"role": "function_call", "content": "bash ls"}), "tool call is no JSON"),
        (asked({"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}), "tool result without call"),
        (
            asked(CALL, {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}, CALL),
            "tool result without call",
        ),
        (asked({"role": "assistant", "content": "  "}), "empty turn"),
        ([{"role": "user", "content": ""}, {"role": "assistant", "content": "Yes?"}], "empty turn"),
        (asked({"role": "narrator", "content": "x"}, {"role": "assistant", "content": "y"}), "unknown role"),
        ("no json", "messages are no JSON"),
        (["text"], "no conversation"),
        (None, "no conversation"),
        (
            [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "A cat"}],
            "image, audio or video",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_rejected_with_its_reason(turns: Any, reason: str) -> None:
    assert adapt(turns) == Rejected(reason)


def test_what_follows_the_last_answer_is_left_out() -> None:
    row = adapt(asked({"role": "assistant", "content": "Three."}, {"role": "user", "content": "Thanks"}))
    assert row["messages"][-1] == {"role": "assistant", "content": "Three."}


@pytest.mark.parametrize(
    "tools",
    [
        [{"name": "bash", "description": "Run", "parameters": {}}],
        [{"type": "function", "function": {"name": "bash", "description": "Run", "parameters": {}}}],
        '[{"name": "bash", "description": "Run", "parameters": {}}]',
        '{"name": "bash", "description": "Run", "parameters": {}}',
    ],
)
def test_tools_come_flat_nested_or_as_text(tools: Any) -> None:
    row = adapt(asked(CALL), tools=tools)
    assert row["tools"] == [{"type": "function", "function": {"name": "bash", "description": "Run", "parameters": {}}}]


def test_tools_that_cannot_be_read_are_a_reason_too() -> None:
    assert adapt(asked(CALL), tools="bash") == Rejected("tools are no JSON")
    assert adapt(asked(CALL), tools=["bash"]) == Rejected("tools are no JSON")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(st.text(max_size=5), leaf, max_size=3),
    max_leaves=8,
)


@given(
    raw=st.dictionaries(
        st.sampled_from(["messages", "conversations", "conversation", "tools", "chat", "system", "text"]), JSON
    )
)
def test_no_row_whatsoever_breaks_an_adapter(raw: dict[str, Any]) -> None:
    for name in (
        "messages",
        "sharegpt",
        "wildchat",
        "glaive",
        "text",
        "herbal",
        "svamp",
        "mbpp",
        "stackexchange",
        "alpaca",
    ):
        with suppress(BadRow):
            assert isinstance(get_adapter(name)(raw, SourceOptions()), dict | list | Rejected)


TURN = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant", "tool", "system", "gpt", "function_call", 3]),
        **dict.fromkeys(["from", "content", "value", "tool_calls", "function_call", "name", "reasoning"], JSON),
    },
)


@given(turns=st.lists(TURN, max_size=5))
def test_no_turn_whatsoever_breaks_an_adapter(turns: list[dict[str, Any]]) -> None:
    for name, key in (("messages", "messages"), ("sharegpt", "conversations"), ("wildchat", "conversation")):
        with suppress(BadRow):
            assert isinstance(get_adapter(name)({key: turns}, SourceOptions()), dict | Rejected)
