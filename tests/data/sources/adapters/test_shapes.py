"""Each registered data set's rows, in its own schema, become rows of the one form; columns tell shapes apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentforge.data.cleaning.filters import RowFilter
from agentforge.data.messages import normalize
from agentforge.data.sources.adapters import ADAPTERS, Rejected, SourceOptions, detect_adapter, get_adapter
from agentforge.data.sources.adapters.questions import plain_text
from agentforge.data.sources.dataset_cards import list_cards, load_card
from agentforge.errors import UserError

ROWS = Path(__file__).parents[2] / "fixtures" / "rows"


def raws(id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ROWS / f"{id}.jsonl").read_text(encoding="utf-8").splitlines()]


def adapted(id: str, **options: Any) -> list[Any]:
    card = load_card(id)
    assert card.adapter is not None
    adapter, settings = get_adapter(card.adapter), SourceOptions(card.adapter_columns, card.default_split)
    return [adapter(raw, settings) for raw in raws(id)]


def said(row: Any) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in row["messages"]]


WITH_ROWS = [card.id for card in list_cards() if card.adapter and (card.enabled or card.files) and card.id != "skein"]


@pytest.mark.parametrize("id", WITH_ROWS)
def test_every_registered_set_that_can_be_used_has_rows_that_its_adapter_takes(id: str) -> None:
    first = adapted(id)[0]
    for row in first if isinstance(first, list) else [first]:
        assert set(row) <= {"messages", "tools", "text", "document", "left_out"}, row
        if "messages" in row:
            assert normalize(row["messages"]) == row["messages"]
            assert row["messages"][-1]["role"] == "assistant"
    assert set(load_card(id).columns) <= set(raws(id)[0]), "the card's columns are not the rows'"


@pytest.mark.parametrize(
    "id",
    [
        i
        for i in WITH_ROWS
        if i not in ("agriculture_qa", "apothecary", "stackexchange_gardening", "rl_python", "wikitext")
    ],
)
def test_shapes_are_found_by_their_columns(id: str) -> None:
    """The adapter that is found gives the same rows as the card's."""
    for raw, row in zip(raws(id), adapted(id), strict=True):
        found = get_adapter(detect_adapter(raw))(raw, SourceOptions(split=load_card(id).default_split))
        assert found == row or load_card(id).adapter in ("gsm8k",)


def test_an_unknown_shape_and_an_unknown_adapter_are_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"columns premise, label.*name one with `adapter:`"):
        detect_adapter({"premise": "", "label": 1})
    with pytest.raises(UserError, match="no adapter 'sharegpd'; did you mean 'sharegpt'"):
        get_adapter("sharegpd")


def test_wildchat_keeps_role_and_content_alone() -> None:
    row = adapted("wildchat")[0]
    left_out = row.pop("left_out")
    text = json.dumps(row)
    assert left_out["messages[].hashed_ip"] == left_out["messages[].toxic"] == 2
    assert said(row) == [("user", "How deep do I plant garlic?"), ("assistant", "About five centimetres, tip upwards.")]
    assert all(word not in text for word in ("9f2c0d", "Mozilla", "Germany", "Hesse", "toxic", "language"))


def test_cards_filter_language_toxic_redacted_and_few_shot_rows() -> None:
    for id, kept in (("wildchat", [True, False, False, False]), ("flan_cot_submix", [True, False])):
        row_filter = RowFilter(load_card(id).filters, {})
        assert [row_filter.reject_raw(raw) is None for raw in raws(id)] == kept


def test_sharegpt_leaves_out_leading_answers() -> None:
    assert said(adapted("sharegpt")[0]) == [("user", "Go on"), ("assistant", "The end.")]


def test_sharegpt_calls_and_observations_become_calls_and_results() -> None:
    row = adapted("glaive_fc_sharegpt")[0]
    call = {"type": "function", "function": {"name": "get_time", "arguments": {"city": "Rome"}}}
    assert row["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert row["messages"][2] == {"role": "tool", "content": '{"time": "12:00"}'}
    assert row["tools"][0]["type"] == "function" and row["tools"][0]["function"]["name"] == "get_time"


def test_toucan_reads_json_messages_with_python_literals_inside() -> None:
    row = adapted("toucan")[0]
    assert row["messages"][2]["tool_calls"][0]["function"] == {"name": "calc-add", "arguments": {"a": 2, "b": 3}}
    assert row["messages"][3]["content"] == "5"


@pytest.mark.parametrize(
    ("id", "user", "assistant"),
    [
        ("agriculture_qa", "why is crop rotation important?", "It keeps the soil fertile."),
        ("metamath", "What is 3 times 4?", "3*4 = 12\n#### 12\nThe answer is: 12"),
        ("flan_cot_submix", "Is a whale a fish? Think.", "Whales breathe air. So the answer is no."),
        ("gsm8k", "Ann has 2 boxes of 3 pens. How many pens?", "2 boxes hold <<2*3=6>>6 pens.\n#### 6"),
        (
            "svamp",
            "Each pack costs 76 dollars. There is a discount of 25 dollars on each pack. "
            "How much do you pay for a pack?",
            "( 76.0 - 25.0 ) = 51\n#### 51",
        ),
        (
            "mbpp",
            "Write a function to double a number.\n\nassert double(2) == 4",
            "```python\ndef double(x): \n\treturn 2 * x\n```",
        ),
        (
            "stackexchange_gardening",
            "My tomato leaves curl & yellow.\n\n- watered daily",
            "Water less.\n\n2 < 7 days",
        ),
    ],
)
def test_questions_and_answers(id: str, user: str, assistant: str) -> None:
    assert said(adapted(id)[0]) == [("user", user), ("assistant", assistant)]


def test_openorca_has_a_system_turn_only_where_the_set_has_one() -> None:
    first, second = adapted("openorca")
    assert said(first)[0] == ("system", "You are a teacher.") and len(said(first)) == 3
    assert said(second)[0] == ("user", "Capital of Peru?")


def test_alpaca_joins_instruction_and_input_and_columns_can_be_renamed() -> None:
    raw = {"instruction": "Translate to German.", "input": "tree", "output": "Baum"}
    assert said(get_adapter("alpaca")(raw, SourceOptions()))[0] == ("user", "Translate to German.\n\ntree")
    raw = {"frage": "Wie hoch?", "antwort": ["Drei Meter.", "Vier."]}
    row = get_adapter("question_answer")(raw, SourceOptions({"question": "frage", "answer": "antwort"}))
    assert said(row) == [("user", "Wie hoch?"), ("assistant", "Drei Meter.")]


@pytest.mark.parametrize(
    "raw", [{"question": " ", "answer": "x"}, {"question": "x"}, {"question": "x", "answer": None}]
)
def test_empty_questions_and_answers_are_rejected(raw: dict[str, Any]) -> None:
    made = get_adapter("question_answer")(raw, SourceOptions())
    assert isinstance(made, Rejected) and made.reason in ("empty question", "empty answer")


def test_mbpp_keeps_only_tasks_of_the_split() -> None:
    assert adapted("mbpp")[1] == Rejected("of another split")
    adapt = ADAPTERS["mbpp"]
    assert isinstance(adapt(raws("mbpp")[1], SourceOptions(split="test")), dict)


def test_plain_text_leaves_text_that_is_no_html() -> None:
    assert plain_text("a < b and c > d &amp; e") == "a < b and c > d & e"
    assert plain_text("<p>one</p>\n\n\n<p>two<br/>three</p>") == "one\n\ntwo\nthree"
