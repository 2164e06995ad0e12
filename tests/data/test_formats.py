"""Every format that people have: found by its columns, and every string of it is rendered or counted as left out."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from agentforge.data.chat_template import encode, install_template, render
from agentforge.data.cleaning.ingest import Ingestor, Raws
from agentforge.data.sources.adapters import Rejected, SourceOptions, detect_adapter
from agentforge.data.sources.adapters.base import AFTER_LAST_ANSWER, BEFORE_FIRST_QUESTION
from agentforge.data.sources.open_sources import OpenSource, open_sources
from agentforge.errors import UserError
from agentforge.recipe.schema import Data, MinHash
from tests.data.drawn_rows import FORMATS
from tests.data.small_tokenizers import chatml_tokenizer

STRUCTURE = {"role", "from", "type", "id", "tool_call_id", "tool_use_id", "call_id"}
"""Keys whose strings say how a row is built; they are not said by anybody."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = chatml_tokenizer()
    install_template(tokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], OpenSource]:
    """Return a function that opens a source of an adapter; its file is never read."""
    file = tmp_path_factory.mktemp("formats") / "rows.jsonl"
    file.write_text('{"text": "x"}\n')
    sources: dict[str, OpenSource] = {}

    def source(adapter: str) -> OpenSource:
        if adapter not in sources:
            mix = [{"dataset": str(file), "adapter": adapter, "filters": {"max_ngram_repetition": 1.0}}]
            sources[adapter] = open_sources(Data.model_validate({"mix": mix}))[0][0]
        return sources[adapter]

    return source


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the path and text of what somebody said in a row, also in the JSON and the literals of its cells."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from strings(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from strings(item, (*path, number if number < 2 else number - len(value)))
    elif isinstance(value, str) and path[-1] not in STRUCTURE:
        if not value.startswith(("{", "[")):
            yield path, value
            return
        try:
            inner = json.loads(value)
        except ValueError:
            inner = ast.literal_eval(value)
        yield from strings(inner, path)


def names_of(path: tuple[Any, ...]) -> set[str]:
    """Return the names under which a string at a path may be counted."""
    column, keys = path[0], [key for key in path if isinstance(key, str)]
    names = {column, f"{column} after the first", "the agent's promise"}
    if column.startswith("rejected"):
        names.add("rejected")
    if column == "chat":  # Glaive's turns are one text
        names.add(AFTER_LAST_ANSWER)
    for key in keys:
        names |= {f"{prefix}.{key}" for prefix in ("messages[]", "messages[].tool_calls[]", "messages[].content[]")}
        names.add(f"tools[].{key}")
    if keys[-1] in ("content", "text", "value"):
        names |= {BEFORE_FIRST_QUESTION} if path[1:2] in ((0,), (1,)) else set()
        names |= {AFTER_LAST_ANSWER} if path[1:2] == (-1,) else set()
    return names


@pytest.mark.parametrize("name", FORMATS)
def test_every_string_is_rendered_or_counted(
    tokenizer: PreTrainedTokenizerFast, opened: Callable[[str], OpenSource], name: str
) -> None:
    @settings(max_examples=30, deadline=None, phases=[Phase.generate], derandomize=True)
    @given(FORMATS[name])
    def check(raw: dict[str, Any]) -> None:
        source = opened(detect_adapter(raw))
        ingested = Ingestor([source], MinHash(enabled=False), None, name == "text", None)(Raws(0, [raw], [1]))
        rows = [json.loads(line) for line in ingested.lines.splitlines()]
        if not rows:
            # Every answer is switched off; whatever else is refused here would be a format that is not read.
            assert ingested.rejected == Counter({"no trained turn": 1}), ingested.rejected
            return
        [row] = rows
        seen = row["text"] if "text" in row else render(tokenizer, row["messages"], row.get("tools"))
        for path, text in strings(raw):
            for said in re.findall(r"w\d+x", text):
                if said not in seen:
                    assert names_of(path) & ingested.left_out.keys(), (path, said, ingested.left_out, seen)

    check()


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "text"])
def test_what_is_left_out_is_named_by_its_key(opened: Callable[[str], OpenSource], name: str) -> None:
    """A key that nobody knows, in a column or in a turn, is in the counts by name."""

    @settings(max_examples=10, deadline=None)
    @given(FORMATS[name])
    def check(raw: dict[str, Any]) -> None:
        source = opened(detect_adapter(raw))
        adapted = source.adapt(raw | {"unheard_of": "w"})
        assert not adapted.rows or adapted.left_out["unheard_of"] == 1

    check()


def adapt(raw: dict[str, Any], opened: Callable[[str], OpenSource]) -> tuple[list[dict[str, Any]], Any, Counter[str]]:
    adapted = opened(detect_adapter(raw)).adapt(raw)
    return (adapted.rows[0]["messages"] if adapted.rows else []), adapted.rejected, adapted.left_out


def asked(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Weather?"}, *turns]}


def test_parallel_results_are_put_into_the_order_of_their_calls(opened: Callable[[str], OpenSource]) -> None:
    calls = [{"id": city, "function": {"name": "weather", "arguments": {"city": city}}} for city in ("Oslo", "Rome")]
    called = {"role": "assistant", "content": None, "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": city, "content": city} for city in ("Rome", "Oslo")]
    end = {"role": "assistant", "content": "Fine."}
    messages, _, _ = adapt(asked(called, *results, end), opened)
    assert [m["content"] for m in messages if m["role"] == "tool"] == ["Oslo", "Rome"]
    for wrong, reason in (
        ([results[0] | {"tool_call_id": "Bern"}], "tool result of an unknown call"),
        ([results[0], results[0]], "tool result of an unknown call"),
        ([results[0]], "call without result"),
    ):
        assert adapt(asked(called, *wrong, end), opened)[1] == [reason]
    by_name = {"role": "assistant", "tool_calls": [{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]}
    named = [{"role": "tool", "name": name, "content": name} for name in ("b", "a")]
    messages, _, _ = adapt(asked(by_name, *named, end), opened)
    assert [m["content"] for m in messages if m["role"] == "tool"] == ["a", "b"]


@pytest.mark.parametrize(
    ("switch", "trained"),
    [
        *[({"weight": 0}, False), ({"train": False}, False), ({"loss": False}, False), ({"trainable": False}, False)],
        *[({"weight": 1}, True), ({"loss": True}, True)],
    ],
)
def test_a_turn_that_is_switched_off_is_not_trained(
    tokenizer: PreTrainedTokenizerFast, opened: Callable[[str], OpenSource], switch: dict[str, Any], trained: bool
) -> None:
    first = {"role": "assistant", "content": "first"} | switch
    again = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "second"}]
    messages, _, left_out = adapt(asked(first, *again), opened)
    encoding = encode(tokenizer, messages)
    learnt = tokenizer.decode([i for i, m in zip(encoding.input_ids, encoding.assistant_masks, strict=True) if m])
    assert learnt == ("first<|im_end|>second<|im_end|>" if trained else "second<|im_end|>") and not left_out
    assert encoding.input_ids == encode(tokenizer, [m | {"train": True} for m in messages]).input_ids
    assert adapt(asked({"role": "assistant", "content": "x", "weight": 0.5}), opened)[1] == [
        "weight is neither 0 nor 1"
    ]


def test_a_question_that_asks_to_be_trained_is_counted(opened: Callable[[str], OpenSource]) -> None:
    raw = asked({"role": "assistant", "content": "Fine."})
    raw["messages"][0]["train"] = True
    assert adapt(raw, opened)[2] == {"messages[].train": 1}


def test_parts_of_a_tools_result_are_the_same_tokens_in_training_and_serving(
    tokenizer: PreTrainedTokenizerFast, opened: Callable[[str], OpenSource]
) -> None:
    called = {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "name": "f", "arguments": {}}]}
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    turns = asked(
        called, {"role": "tool", "tool_call_id": "1", "content": parts}, {"role": "assistant", "content": "."}
    )
    messages, _, _ = adapt(turns, opened)
    assert render(tokenizer, messages) == render(tokenizer, turns["messages"])
    assert messages[2]["content"] == "one two"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"content": "<think>\nendless"}, "<think> without </think>"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "image, audio or video"),
        ({"content": "<tool_call>\n{'name': f}\n</tool_call>"}, "tool call is no JSON"),
    ],
)
def test_rows_that_are_refused(opened: Callable[[str], OpenSource], answer: dict[str, Any], reason: str) -> None:
    assert adapt(asked({"role": "assistant"} | answer), opened)[1] == [reason]


def test_images_beside_the_text_refuse_the_row(opened: Callable[[str], OpenSource]) -> None:
    raw = asked({"role": "assistant", "content": "A cat."}) | {"images": ["cat.png"]}
    assert adapt(raw, opened)[1] == ["image, audio or video"]


def test_python_dicts_between_the_tags_are_calls(opened: Callable[[str], OpenSource]) -> None:
    text = "Look.\n<tool_call>\n{'name': 'f', 'arguments': {'a': None, 'b': \"it's\"}}\n</tool_call>"
    messages, _, _ = adapt(asked({"role": "assistant", "content": text}), opened)
    assert messages[1]["content"] == "Look."
    assert messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": None, "b": "it's"}}


def test_several_calls_in_turns_of_their_own_are_one_turn(opened: Callable[[str], OpenSource]) -> None:
    turns = [{"role": "user", "content": "x"}]
    turns += [{"role": "tool_call", "content": json.dumps({"name": n, "arguments": {}})} for n in "ab"]
    turns += [{"role": "tool_response", "content": n} for n in "ab"]
    messages, _, _ = adapt({"messages": [*turns, {"role": "assistant", "content": "y"}]}, opened)
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [one["function"]["name"] for one in messages[1]["tool_calls"]] == ["a", "b"]


def test_only_the_completion_is_trained(opened: Callable[[str], OpenSource]) -> None:
    before = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    raw = {"prompt": before, "completion": [{"role": "assistant", "content": "d"}]}
    messages, _, _ = adapt(raw, opened)
    assert [(m["content"], m.get("train", True)) for m in messages if m["role"] == "assistant"] == [
        ("b", False),
        ("d", True),
    ]


def test_a_bad_history_is_refused() -> None:
    from agentforge.data.sources.adapters import get_adapter

    raw = {"instruction": "x", "output": "y", "history": [["only one"]]}
    assert get_adapter("alpaca")(raw, SourceOptions()) == Rejected("history is no list of pairs")


PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
EXAMPLES = re.findall(r"<!-- row: (\w+) -->\n```json\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize(("adapter", "text"), EXAMPLES)
def test_the_examples_of_the_page_are_found_and_read(
    opened: Callable[[str], OpenSource], adapter: str, text: str
) -> None:
    raw = json.loads(text)
    assert detect_adapter(raw) == adapter
    adapted = opened(adapter).adapt(raw)
    assert len(adapted.rows) == 1 and set(adapted.left_out) <= {"rejected"}


def test_the_page_has_an_example_of_every_format() -> None:
    generic = {"messages", "sharegpt", "alpaca", "dolly", "prompt_completion", "preference", "kto", "text"}
    assert generic <= {adapter for adapter, _ in EXAMPLES}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from(["", "x", "[{", "{'a': {1}}", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "name"]), inner),
    max_leaves=6,
)


@st.composite
def spoilt(draw: st.DrawFn, rows: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """A row of a format in which something, at any depth, was replaced by anything."""
    raw = draw(rows)
    place: Any = raw
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            place[key] = draw(JUNK)
            return raw
        place = inner


@pytest.mark.parametrize("name", FORMATS)
def test_no_row_raises_whatever_stands_in_it(
    tokenizer: PreTrainedTokenizerFast, opened: Callable[[str], OpenSource], name: str
) -> None:
    @settings(max_examples=25, deadline=None, phases=[Phase.generate], derandomize=True)
    @given(spoilt(FORMATS[name]))
    def check(raw: dict[str, Any]) -> None:
        try:
            source = opened(detect_adapter(raw))
        except UserError:
            return
        ingested = Ingestor([source], MinHash(enabled=False), None, name == "text", None)(Raws(0, [raw], [1]))
        for line in ingested.lines.splitlines():
            row = json.loads(line)
            assert "text" in row or encode(tokenizer, row["messages"], row.get("tools")).input_ids

    check()
