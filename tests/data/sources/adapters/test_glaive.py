"""The pitfalls of Glaive v2 (facts, section 2), one test each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.data.sources.adapters import Rejected, SourceOptions
from agentforge.data.sources.adapters.glaive import glaive, read_call, read_tools

NO_TOOLS = "SYSTEM: You are a helpful assistant, with no access to external functions."


def adapt(chat: str, system: str = NO_TOOLS) -> Any:
    return glaive({"system": system, "chat": chat}, SourceOptions())


def transcript(*turns: tuple[str, str]) -> str:
    end = {"ASSISTANT": " <|endoftext|>"}
    return "\n\n\n".join(f"{role}: {text}{end.get(role, '')}" for role, text in turns) + "\n\n\n"


def called(call: str) -> Any:
    return adapt(transcript(("USER", "Do it."), ("ASSISTANT", f"<functioncall> {call}")))


def arguments(row: Any) -> Any:
    return row["messages"][1]["tool_calls"][0]["function"]["arguments"]


def test_a_quotes_inside_quoted_arguments_stay() -> None:
    row = called("""{"name": "say", "arguments": '{"text": "It's Bob's turn", "to": "Ann"}'}""")
    assert arguments(row) == {"text": "It's Bob's turn", "to": "Ann"}
    assert arguments(called("""{"name": "say", "arguments": '{"text": "It\\'s late"}'}""")) == {"text": "It's late"}
    assert arguments(called("""{"name": "say", "arguments": '{"text": "end\\"}'"}'}""")) == {"text": "end\"}'"}
    assert arguments(called("""{"name": "say", "arguments": '{\n "text": "two\nlines"\n}'}""")) == {
        "text": "two\nlines"
    }
    assert arguments(called("""{"name": "say", "arguments": '{'n': 1, 'yes': True}'}""")) == {"n": 1, "yes": True}


@given(st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.integers() | st.lists(st.booleans()), max_size=4))
def test_a_any_arguments_survive(given_arguments: dict[str, Any]) -> None:
    call = f"""{{"name": "f", "arguments": '{json.dumps(given_arguments, ensure_ascii=False)}'}}"""
    assert read_call(call) == {"name": "f", "arguments": given_arguments}


def test_b_no_arguments_and_unquoted_arguments() -> None:
    assert arguments(called('{"name": "now"}')) == {}
    assert arguments(called("""{"name": "now", "arguments": ''}""")) == {}
    assert arguments(called('{"name": "now", "arguments": {"zone": "UTC"}}')) == {"zone": "UTC"}
    assert arguments(called('{"name": "now", "arguments": "{\\"zone\\": \\"UTC\\"}"}')) == {"zone": "UTC"}


def test_b_what_is_no_call_is_rejected() -> None:
    for call in (
        "",
        "now()",
        '{"name": "now", "arguments": {"zone": }}',
        """{"name": "now", "arguments": '[1]'}""",
        "[1]",
    ):
        assert called(call) == Rejected("tool call is no JSON"), call


def test_c_turns_have_several_lines_and_the_first_user_turn_stays() -> None:
    row = adapt(transcript(("USER", "Write a poem.\n\nTwo lines."), ("ASSISTANT", "First line,\n\nsecond line.")))
    assert row["messages"] == [
        {"role": "user", "content": "Write a poem.\n\nTwo lines."},
        {"role": "assistant", "content": "First line,\n\nsecond line."},
    ]


def test_d_concatenated_nested_tools_with_braces_in_strings() -> None:
    tools = [
        {"name": "a", "description": 'uses {braces} and "}"', "parameters": {"properties": {"x": {"properties": {}}}}},
        {"name": "b", "description": "none", "parameters": {}},
    ]
    text = "SYSTEM: You have access to functions -\n" + "\n".join(json.dumps(tool, indent=4) for tool in tools)
    row = adapt(transcript(("USER", "Hi"), ("ASSISTANT", "Hello")), text)
    assert [tool["function"] for tool in row["tools"]] == tools
    assert read_tools(NO_TOOLS) == [] and "tools" not in adapt(transcript(("USER", "Hi"), ("ASSISTANT", "Hello")))
    broken = adapt(transcript(("USER", "Hi"), ("ASSISTANT", "Hello")), text[:-10])
    assert broken == Rejected("tools are no JSON")


def test_e_text_and_call_in_one_turn_or_in_two() -> None:
    call = """<functioncall> {"name": "f", "arguments": '{"x": 1}'}"""
    one = adapt(
        transcript(
            ("USER", "Go"), ("ASSISTANT", f"Of course. {call}"), ("FUNCTION RESPONSE", "{}"), ("ASSISTANT", "Done.")
        )
    )
    two = adapt(
        transcript(
            ("USER", "Go"),
            ("ASSISTANT", f"Of course. \n ASSISTANT: {call}"),
            ("FUNCTION RESPONSE", "{}"),
            ("ASSISTANT", "Done."),
        )
    )
    assert one == two
    assert one["messages"][1]["content"] == "Of course." and arguments(one) == {"x": 1}
    assert one["messages"][2] == {"role": "tool", "name": "f", "content": "{}"}


def test_e_answers_in_a_row_are_one_and_empty_ones_are_left_out() -> None:
    row = adapt(transcript(("USER", "Go"), ("ASSISTANT", "One."), ("ASSISTANT", "Two."), ("ASSISTANT", "")))
    assert row["messages"][1:] == [{"role": "assistant", "content": "One.\n\nTwo."}]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([("USER", "Hi"), ("FUNCTION RESPONSE", "{}"), ("ASSISTANT", "Hm")], "tool result without call"),
        ([("USER", ""), ("ASSISTANT", "Hello")], "empty turn"),
        ([("ASSISTANT", "Hello"), ("USER", "Hi"), ("ASSISTANT", "Yes?")], "does not start with the user"),
        ([("USER", "Hi")], "no assistant turn"),
        ([], "no assistant turn"),
    ],
)
def test_e_transcripts_out_of_order_are_rejected(turns: list[tuple[str, str]], reason: str) -> None:
    assert adapt(transcript(*turns)) == Rejected(reason)


def test_f_g_rows_are_a_function_of_their_text_without_invented_ids() -> None:
    chat = transcript(
        ("USER", "Go"),
        ("ASSISTANT", '<functioncall> {"name": "f"}'),
        ("FUNCTION RESPONSE", "{}"),
        ("ASSISTANT", "Done."),
    )
    assert adapt(chat) == adapt(chat)
    assert "id" not in adapt(chat)["messages"][1]["tool_calls"][0]
