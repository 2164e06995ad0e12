"""Rows of every format, drawn at random; each text occurs nowhere else, so a test sees which one is lost."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

_names = iter(range(10**9))


def word() -> st.SearchStrategy[str]:
    """A text that occurs nowhere else."""
    return st.builds(lambda: f"w{next(_names)}x")


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def text_or_parts() -> st.SearchStrategy[Any]:
    part = st.builds(lambda text, more: {"type": "text", "text": text} | more, word(), optional(cache_control=word()))
    return st.one_of(word(), st.lists(part, min_size=1, max_size=2))


FLAGS = optional(weight=st.sampled_from([0, 1]), train=st.booleans(), loss=st.booleans(), trainable=st.booleans())
EXTRA = optional(timestamp=word(), name=word(), meta=st.fixed_dictionaries({"a": word()}))


@st.composite
def call(draw: st.DrawFn, number: int) -> dict[str, Any]:
    arguments = draw(st.dictionaries(st.sampled_from(["a", "b"]), word(), min_size=1))
    written = draw(st.sampled_from([lambda value: value, json.dumps, str]))(arguments)
    key = draw(st.sampled_from(["arguments", "parameters"]))
    function = {"name": draw(word()), key: written} | draw(optional(extra=word()))
    nested = draw(st.booleans())
    return {"id": f"id{number}", **({"type": "function", "function": function} if nested else function)}


@st.composite
def openai_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    if draw(st.booleans()):
        turns.append({"role": draw(st.sampled_from(["system", "developer"])), "content": draw(text_or_parts())})
    if draw(st.booleans()):
        turns.append({"role": "assistant", "content": draw(word())})
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(text_or_parts())} | draw(EXTRA))
        if draw(st.booleans()):
            calls = [draw(call(number)) for number in range(draw(st.integers(1, 3)))]
            shown = draw(st.sampled_from([lambda value: value, json.dumps, str]))(calls)
            turns.append({"role": "assistant", "content": draw(st.none() | word()), "tool_calls": shown})
            results = [{"role": "tool", "tool_call_id": one["id"], "content": draw(text_or_parts())} for one in calls]
            turns += draw(st.permutations(results))
        thought = draw(optional(reasoning_content=word(), reasoning=word(), thinking=word(), refusal=word()))
        turns.append({"role": "assistant", "content": draw(text_or_parts())} | thought | draw(FLAGS) | draw(EXTRA))
    if draw(st.booleans()):
        turns.append({"role": "user", "content": draw(word())})
    return turns


TOOLS = st.lists(
    st.builds(
        lambda name, more, schema: {"name": name, **more, schema: {"type": "object"}},
        word(),
        optional(description=word(), strict=word()),
        st.sampled_from(["parameters", "input_schema"]),
    ),
    min_size=1,
    max_size=2,
)
COLUMNS = optional(system=word(), tools=TOOLS, functions=TOOLS, source=word(), score=st.integers())


def with_columns(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda row, more: more | row, st.fixed_dictionaries(fields), COLUMNS)


@st.composite
def sharegpt_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns = [{"from": draw(st.sampled_from(["human", "user", "prompter"])), "value": draw(word())}]
    for _ in range(draw(st.integers(0, 3))):
        names = [draw(word()) for _ in range(draw(st.integers(1, 2)))]
        kind, answers = draw(st.sampled_from([("function_call", "observation"), ("tool_call", "tool_response")]))
        turns += [
            {"from": kind, "value": json.dumps({"name": name, "arguments": {"a": draw(word())}})} for name in names
        ]
        turns += [{"from": answers, "value": draw(word())} for _ in names]
    who = draw(st.sampled_from(["gpt", "chatgpt", "bard", "bing", "model"]))
    return [*turns, {"from": who, "value": draw(word())}]


USER_TURN = st.builds(lambda text: {"role": "user", "content": text}, word())
ANSWER = st.builds(lambda text, flags, extra: {"role": "assistant", "content": text} | extra, word(), FLAGS, EXTRA)
HISTORY = st.lists(st.tuples(word(), word()).map(list), max_size=2)
THOUGHT = optional(history=HISTORY, reasoning_content=word(), thinking=word())


def and_thought(rows: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda row, more: more | row, rows, THOUGHT)


def anthropic_row(texts: list[str]) -> dict[str, Any]:
    a, b, c, d, e, f = texts
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": c}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": d}]}
    return {
        "messages": [
            {"role": "user", "content": a},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": b, "signature": f}, use]},
            {"role": "user", "content": [result]},
            {"role": "assistant", "content": e},
        ]
    }


@st.composite
def swift_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """ms-swift: calls and results in turns of their own."""
    names = [draw(word()) for _ in range(draw(st.integers(1, 3)))]
    calls = [{"name": name, "arguments": {"a": draw(word())}} for name in names]
    turns = [{"role": "user", "content": draw(word())} | draw(EXTRA)]
    turns += [{"role": "tool_call", "content": json.dumps(one)} for one in calls]
    turns += [{"role": "tool_response", "content": draw(word())} for _ in calls]
    return [*turns, draw(ANSWER)]


@st.composite
def older_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    """OpenAI's functions, of before tools were called so."""
    name = draw(word())
    made = {"name": name, "arguments": json.dumps({"a": draw(word())})}
    turns = [{"role": "user", "content": draw(word())} | draw(EXTRA)]
    turns.append({"role": "assistant", "content": draw(st.none() | word()), "function_call": made})
    return [*turns, {"role": "function", "name": name, "content": draw(word())}, draw(ANSWER)]


@st.composite
def trajectory_turns(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        promise = number == 0 and draw(st.booleans())
        turns.append({"from": "human", "value": draw(word()), "loss": None})
        turns.append({"from": "gpt", "value": draw(word()), "loss": not promise} | draw(optional(stamp=word())))
    return [*turns, {"from": "human", "value": draw(word())}, {"from": "gpt", "value": draw(word()), "loss": True}]


def transcript(texts: list[str]) -> dict[str, Any]:
    asked, said, again, good, bad = texts
    begun = f"\n\nHuman: {asked}\n\nAssistant: {said}\n\nHuman: {again}\n\nAssistant: "
    return {"chosen": begun + good, "rejected": begun + bad}


def glaive_row(texts: list[str]) -> dict[str, Any]:
    tool, about, a, b, c, d, e = texts
    described = json.dumps({"name": tool, "description": about, "parameters": {"type": "object"}})
    called = f'<functioncall> {{"name": "{tool}", "arguments": \'{{"at": "{b}"}}\'}} <|endoftext|>'
    turns = [f"USER: {a}", f"ASSISTANT: {called}", f"FUNCTION RESPONSE: {c}", f"ASSISTANT: {d} <|endoftext|>"]
    return {"system": f"SYSTEM: Use these functions - {described}", "chat": "\n\n\n".join([*turns, f"USER: {e}"])}


def words(count: int) -> st.SearchStrategy[list[str]]:
    return st.lists(word(), min_size=count, max_size=count)


PAIR = words(3).map(lambda t: ([{"from": "human", "value": t[0]}], *({"from": "gpt", "value": one} for one in t[1:])))

FORMATS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "messages": with_columns(messages=openai_turns()),
    "messages as text": with_columns(messages=openai_turns().map(json.dumps)),
    "older functions": with_columns(messages=older_turns()),
    "ms-swift": with_columns(messages=swift_turns()),
    "anthropic": words(6).map(anthropic_row),
    "sharegpt": with_columns(conversations=sharegpt_turns()),
    "wildchat": with_columns(conversation=st.tuples(USER_TURN, ANSWER).map(list), hashed_ip=word()),
    "agenttraj": st.fixed_dictionaries({"item_id": word(), "conversations": trajectory_turns()}),
    "glaive": words(7).map(glaive_row),
    "openorca": and_thought(st.fixed_dictionaries({"system_prompt": word(), "question": word(), "response": word()})),
    "cot": and_thought(with_columns(inputs=word(), targets=word())),
    "input_output": and_thought(with_columns(input=word(), output=word())),
    "prompt_response": and_thought(with_columns(prompt=word(), response=word())),
    "alpaca": and_thought(with_columns(instruction=word(), input=word() | st.just(""), output=word())),
    "dolly": and_thought(with_columns(instruction=word(), context=word(), response=word(), category=word())),
    "question_answer": and_thought(with_columns(question=word(), answer=word() | st.lists(word(), min_size=1))),
    "query_response": and_thought(with_columns(query=word(), response=word())),
    "prompt_completion": and_thought(with_columns(prompt=word(), completion=word())),
    "prompt_completion of turns": with_columns(
        prompt=st.lists(USER_TURN, min_size=1, max_size=1), completion=st.lists(ANSWER, min_size=1, max_size=1)
    ),
    "preference": with_columns(prompt=word(), chosen=word(), rejected=word()),
    "preference of turns": with_columns(
        chosen=ANSWER.map(lambda turn: [{"role": "user", "content": "Which?"}, turn]),
        rejected=ANSWER.map(lambda turn: [{"role": "user", "content": "Which?"}, turn]),
    ),
    "preference of ms-swift": with_columns(
        messages=st.tuples(USER_TURN, ANSWER).map(list), rejected_response=word(), margin=word()
    ),
    "preference of LLaMA-Factory": PAIR.map(lambda p: {"conversations": p[0], "chosen": p[1], "rejected": p[2]}),
    "preference transcripts": words(5).map(transcript),
    "kto tag": with_columns(messages=st.tuples(USER_TURN, ANSWER).map(list), kto_tag=st.just(True)),
    "kto": with_columns(prompt=word(), completion=word(), label=st.just(True)),
    "text": st.builds(lambda text, more: {"text": text} | more, word(), optional(url=word(), title=word())),
}
