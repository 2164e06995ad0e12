"""Cells of a type that nobody expects: the row is rejected with a reason, and no object is ever trained as its JSON."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from agentforge.data.messages import BadRow
from agentforge.data.row_text import row_text
from agentforge.data.sources.adapters import ADAPTERS, Rejected, SourceOptions, detect_adapter, get_adapter

ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
OSLO, ROME = (
    {"id": city, "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
    for city in ("Oslo", "Rome")
)
BOTH = {"role": "assistant", "content": "", "tool_calls": [OSLO, ROME]}


def result(city: Any, content: Any = "4 degrees") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": city, "content": content}


CALLED = {"role": "assistant", "content": "c", "reasoning_content": "t", "tool_calls": [OSLO]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
SPANS = {"spans": ["3"], "types": ["number"]}
EVIDENCE = {"supporting_facts": {"title": ["T"], "sent_id": [0]}, "context": {"title": ["T"], "sentences": [["s"]]}}
PLANT = "ALEHOOF.\n\nDescript.] It has leaves that are round and a little dented about the edges."
DATED = {"number": "3", "spans": [], "date": {"day": "", "month": "", "year": ""}}

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"system": "s", "messages": [ASK, CALLED, result("Oslo"), ANSWER], "tools": [TOOL]}),
    ("sharegpt", {"system": "s", "conversations": [HUMAN, GPT]}),
    ("wildchat", {"conversation": [ASK, ANSWER]}),
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b"}),
    ("preference", {"chosen": [ASK, ANSWER], "rejected": [ASK, ANSWER | {"content": "b"}]}),
    ("preference", {"messages": [ASK, ANSWER], "rejected_response": "b"}),
    ("kto", {"prompt": "q", "completion": "a", "label": True}),
    ("kto", {"messages": [ASK, ANSWER], "label": True}),
    ("glaive", {"system": 'SYSTEM: {"name": "f", "parameters": {}}', "chat": "USER: q\n\nASSISTANT: a <|endoftext|>"}),
    ("agenttraj", {"item_id": "1", "conversations": [HUMAN, GPT | {"loss": False}, HUMAN, GPT | {"loss": True}]}),
    ("svamp", {"Body": "b", "Question": "q", "Answer": "3", "Equation": "e"}),
    ("asdiv", {"body": "b", "question": "q", "answer": "3 (x)", "formula": "f"}),
    ("mbpp", {"task_id": 700, "text": "t", "code": "c", "test_list": ["t"]}),
    ("code_to_text", {"code": "def f():\n    return 1", "docstring": "d"}),
    ("arc", {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "A"}),
    ("hellaswag", {"activity_label": "l", "ctx_a": "a", "ctx_b": "b", "endings": ["x", "y"], "label": "1"}),
    ("piqa", {"goal": "g", "sol1": "x", "sol2": "y", "label": 0}),
    ("boolq", {"passage": "p", "question": "q", "answer": True}),
    ("strategyqa", {"qid": "1", "question": "q", "answer": True, "facts": ["f"]}),
    ("drop", {"passage": "p", "question": "q", "query_id": "1", "answers_spans": SPANS}),
    ("drop", {"passage": "p", "question": "q", "query_id": "1", "answer": DATED}),
    ("hotpotqa", {"question": "q", "answer": "a", **EVIDENCE}),
    ("text", {"text": "t"}),
    ("question_answer", {"question": "q", "answer": "a", "system": "s", "history": [["h", "i"]], "thinking": "t"}),
    ("openorca", {"system_prompt": "s", "question": "q", "response": "a"}),
    ("alpaca", {"instruction": "q", "input": "c", "output": "a"}),
    ("dolly", {"instruction": "q", "context": "c", "response": "a"}),
    ("metamath", {"query": "q", "response": "a"}),
    ("cot", {"inputs": "q", "targets": "a"}),
    ("input_output", {"input": "q", "output": "a"}),
    ("prompt_response", {"prompt": "q", "response": "a"}),
    ("prompt_completion", {"prompt": "q", "completion": "a"}),
    ("prompt_completion", {"prompt": [ASK], "completion": [ANSWER]}),
]
NAMED_BY_HAND: list[tuple[str, dict[str, Any]]] = [
    ("gsm8k", {"question": "q", "answer": "a #### 3"}),
    ("stackexchange", {"question": "q", "answers": [{"text": "a", "pm_score": 3, "selected": True}]}),
    ("wikitext", {"text": "t"}),
    ("herbal", {"text": PLANT}),
]
"""Of adapters whose columns are another's too."""

MARK = "zz"
ODD = [
    *(
        {"a": MARK},
        [{"a": MARK}],
        [[MARK]],
        [MARK, {"a": 1}],
        [{"type": "text", "text": [MARK]}],
        {"text": {"a": MARK}},
    ),
    *(True, False, 3, 2.5, math.nan, None, [], {}, [1, 2], [None]),
]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from leaves(value[key], (*path, key))


def changed(row: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copied: Any = copy.deepcopy(row)
    place = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = copy.deepcopy(value)
    return copied  # type: ignore[no-any-return]


def made(name: str, raw: dict[str, Any]) -> list[Any]:
    """Return the rows of a raw row, or the reason why there is none."""
    try:
        answer = get_adapter(name)(raw, SourceOptions())
    except BadRow as error:
        return [error.reason]
    answers = answer if isinstance(answer, list) else [answer]
    return [one.reason if isinstance(one, Rejected) else one for one in answers]


def spoken(row: dict[str, Any]) -> str:
    """Return what is said in a row, calls and the results of tools apart: those may be any JSON."""
    if "text" in row:
        return str(row["text"])
    said = [{k: v for k, v in m.items() if k != "tool_calls"} for m in row["messages"] if m["role"] != "tool"]
    system = "".join(m["content"] for m in said if m["role"] == "system")
    return system + row_text({"messages": said})


def test_every_adapter_has_a_row_here() -> None:
    assert {name for name, _ in ROWS} | {name for name, _ in NAMED_BY_HAND} == set(ADAPTERS)
    assert [detect_adapter(row) for _, row in ROWS] == [name for name, _ in ROWS]


@pytest.mark.parametrize(("name", "row"), ROWS + NAMED_BY_HAND)
def test_no_odd_cell_breaks_an_adapter_or_is_said_as_json(name: str, row: dict[str, Any]) -> None:
    assert isinstance(made(name, row)[0], dict), made(name, row)
    for path in leaves(row):
        for odd in ODD:
            for one in made(name, changed(row, path, odd)):
                if not isinstance(one, str):
                    text = spoken(one).lower()
                    assert f'"{MARK}"' not in text and "'a'" not in text, (path, odd, one)
                    assert not any(word in text for word in ("true", "false", "nan", "none", "null", "{", "[")), (
                        path,
                        odd,
                        one,
                    )


# Rows that were trained as something else than they say, and why they are refused now.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an answer as an object": ({"messages": [ASK, ANSWER | {"content": {"text": "a"}}]}, "content is no text"),
    "an answer as an empty object": ({"messages": [ASK, ANSWER | {"content": {}}]}, "content is no text"),
    "a question as an object": ({"messages": [ASK | {"content": {"q": 1}}, ANSWER]}, "content is no text"),
    "a system turn as an object": ({"messages": [ASK, ANSWER], "system": {"be": "brief"}}, "content is no text"),
    "an answer as a number": ({"messages": [ASK, ANSWER | {"content": 4}]}, "content is no text"),
    "an answer as true": ({"messages": [ASK, ANSWER | {"content": True}]}, "content is no text"),
    "parts of numbers": ({"messages": [ASK, ANSWER | {"content": [1, 2]}]}, "content is no text"),
    "a part whose text is a list": (
        {"messages": [ASK, ANSWER | {"content": [{"type": "text", "text": ["a"]}]}]},
        "content is no text",
    ),
    "an image by itself": (
        {"messages": [ASK | {"content": {"type": "image_url", "image_url": {"url": "x"}}}, ANSWER]},
        "image, audio or video",
    ),
    "a ShareGPT value as an object": ({"conversations": [HUMAN, GPT | {"value": {"a": 1}}]}, "content is no text"),
    "a WildChat answer as an object": ({"conversation": [ASK, ANSWER | {"content": {"a": 1}}]}, "content is no text"),
    "a trajectory's answer as an object": (
        {"item_id": "1", "conversations": [HUMAN, GPT | {"value": {"a": 1}}]},
        "content is no text",
    ),
    "reasoning as an object": (
        {"messages": [ASK, ANSWER | {"reasoning": {"effort": "high"}}]},
        "reasoning is no text",
    ),
    "reasoning as a list of objects": (
        {"messages": [ASK, ANSWER | {"reasoning_content": [{"summary": "s"}]}]},
        "reasoning is no text",
    ),
    "a thinking part as an object": (
        {"messages": [ASK, ANSWER | {"content": [{"type": "thinking", "thinking": {"a": 1}}, "a"]}]},
        "reasoning is no text",
    ),
    "a column of reasoning as an object": (
        {"question": "q", "answer": "a", "thinking": {"step": 1}},
        "thinking is no text",
    ),
    "Alpaca's output as an object": ({"instruction": "q", "input": "", "output": {"a": 1}}, "output is no text"),
    "Alpaca's output as true": ({"instruction": "q", "input": "", "output": True}, "output is no text"),
    "Alpaca's output as no list": ({"instruction": "q", "input": "", "output": []}, "empty answer"),
    "Alpaca's input as an object": ({"instruction": "q", "input": {"t": 1}, "output": "a"}, "input is no text"),
    "Dolly's context as a list": ({"instruction": "q", "context": ["c"], "response": "a"}, "context is no text"),
    "SQuAD's answer": ({"question": "q", "answer": {"text": ["a"], "start": [3]}}, "answer is no text"),
    "an answer of numbers": ({"question": "q", "answer": [1, 2]}, "answer is no text"),
    "an answer that a table lacks": ({"question": "q", "answer": math.nan}, "empty answer"),
    "a question that a table lacks": ({"question": math.nan, "answer": "a"}, "empty question"),
    "a column of questions as objects": ({"question": {"q": 1}, "answer": "a"}, "question is no text"),
    "a history of objects": ({"question": "q", "answer": "a", "history": [[{"q": 1}, "i"]]}, "history is no text"),
    "a prompt as an object": ({"prompt": {"q": 1}, "completion": "a"}, "prompt is no text"),
    "a completion as an object": ({"prompt": "q", "completion": {"a": 1}}, "completion is no text"),
    "a prompt that is half turns": ({"prompt": [1, ASK], "completion": "a"}, "prompt is no text"),
    "a chosen answer as an object": ({"prompt": "q", "chosen": {"a": 1}, "rejected": "b"}, "chosen is no text"),
    "a rejected answer as an object": ({"prompt": "q", "chosen": "a", "rejected": {"b": 1}}, "rejected is no text"),
    "rejected turns that are none": (
        {"chosen": [ASK, ANSWER], "rejected": [3, ANSWER | {"content": "b"}]},
        "rejected is no text",
    ),
    "a labelled answer as an object": ({"prompt": "q", "completion": {"a": 1}, "label": True}, "completion is no text"),
    "tools whose schema is a number": (
        {"messages": [ASK, ANSWER], "tools": [{"name": "f", "parameters": 3}]},
        "tools are no JSON",
    ),
    "tools that an object describes": (
        {"messages": [ASK, ANSWER], "tools": [{"name": "f", "description": {"en": "d"}}]},
        "tools are no JSON",
    ),
    # Calls of which one has no result, and yet the conversation goes on.
    "no result of the last call": ({"messages": [ASK, BOTH, result("Oslo"), ANSWER]}, "call without result"),
    "no result of the first call": ({"messages": [ASK, BOTH, result("Rome"), ANSWER]}, "call without result"),
    "no result at all": ({"messages": [ASK, BOTH, ANSWER]}, "call without result"),
    "no result of the only call": ({"messages": [ASK, CALLED, ANSWER]}, "call without result"),
    "a question instead of a result": ({"messages": [ASK, CALLED, ASK, ANSWER]}, "call without result"),
    "no result of the last call, by place": (
        {
            "messages": [
                ASK,
                {"role": "assistant", "tool_calls": [{"name": "f"}, {"name": "g"}]},
                {"role": "tool", "content": "1"},
                ANSWER,
            ]
        },
        "call without result",
    ),
    "no result of the last call, of ms-swift": (
        {
            "messages": [
                ASK,
                *({"role": "tool_call", "content": json.dumps({"name": name, "arguments": {}})} for name in "fg"),
                {"role": "tool_response", "content": "1"},
                ANSWER,
            ]
        },
        "call without result",
    ),
    "no result of a call in ShareGPT": (
        {"conversations": [HUMAN, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'}, HUMAN, GPT]},
        "call without result",
    ),
    "no result of an Anthropic call": (
        {
            "messages": [
                ASK,
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": i, "name": "f", "input": {}} for i in "ab"],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "b", "content": "1"}]},
                ANSWER,
            ]
        },
        "call without result",
    ),
    "no result of the older function": (
        {"messages": [ASK, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, ASK, ANSWER]},
        "call without result",
    ),
    "no result of a call in Glaive": (
        {
            "system": "",
            "chat": 'USER: q\n\nASSISTANT: <functioncall> {"name": "f"} <|endoftext|>\n\nUSER: x\n\nASSISTANT: a',
        },
        "call without result",
    ),
    "two results of one call": (
        {"messages": [ASK, CALLED, result("Oslo"), result("Oslo"), ANSWER]},
        "tool result without call",
    ),
    "a result of a call of an earlier turn": (
        {"messages": [ASK, CALLED, result("Oslo"), ANSWER, ASK, BOTH, result("Bern"), result("Rome"), ANSWER]},
        "tool result of an unknown call",
    ),
    "a number that is no call's": (
        {"messages": [ASK, BOTH | {"tool_calls": [OSLO | {"id": 1}, ROME | {"id": 2}]}, result(0), result(2), ANSWER]},
        "tool result of an unknown call",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_reason(name: str) -> None:
    raw, reason = REFUSED[name]
    assert made(detect_adapter(raw), raw) == [reason]


def test_what_is_certain_is_read() -> None:
    """One part without its list, numbers in a column, a switch beside an answer, JSON that a tool gave."""
    part = made("messages", {"messages": [ASK, ANSWER | {"content": {"type": "text", "text": "a"}}]})
    assert part[0]["messages"][1] == ANSWER
    number = made("question_answer", {"question": "2 + 2?", "answer": 4})
    assert number[0]["messages"][1]["content"] == "4"
    switch = made("question_answer", {"question": "q", "answer": "a", "thinking": False})
    assert switch[0]["messages"][1] == ANSWER and switch[0]["left_out"] == {"thinking": 1}
    turn_switch = made("messages", {"messages": [ASK, ANSWER | {"thinking": True}]})
    assert turn_switch[0]["messages"][1] == ANSWER and turn_switch[0]["left_out"] == {"messages[].thinking": 1}
    for content, text in (({"degrees": 4}, '{"degrees": 4}'), (4, "4"), (True, "true"), ([1, "x"], '[1, "x"]')):
        row = made("messages", {"messages": [ASK, CALLED, result("Oslo", content), ANSWER]})[0]
        assert row["messages"][2]["content"] == text
    schema = made("messages", {"messages": [ASK, ANSWER], "tools": [{"name": "f", "parameters": '{"type": "object"}'}]})
    assert schema[0]["tools"][0]["function"]["parameters"] == {"type": "object"}


def test_a_conversation_may_end_with_calls() -> None:
    """Then what is trained is the calling; the results behind it are counted as left out."""
    row = made("messages", {"messages": [ASK, BOTH]})[0]
    assert len(row["messages"][-1]["tool_calls"]) == 2
    row = made("messages", {"messages": [ASK, BOTH, result("Rome")]})[0]
    assert row["messages"][-1]["role"] == "assistant" and row["left_out"] == {"turns after the last answer": 1}


def test_ids_may_be_numbers_from_0() -> None:
    calls = BOTH | {"tool_calls": [OSLO | {"id": 0}, ROME | {"id": 1}]}
    row = made("messages", {"messages": [ASK, calls, result(1, "25"), result(0, "4"), ANSWER]})[0]
    assert [m["content"] for m in row["messages"] if m["role"] == "tool"] == ["4", "25"]
