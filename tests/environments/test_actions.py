"""The action of a turn is found where it is said, and nowhere else."""

from __future__ import annotations

import json
import re
import time
from typing import Any

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


def searched_again_and_again(text: str) -> str:
    """Return `without_reasoning` as it was at first: plain to read, and quadratic in tags that nothing closes."""
    end = 0
    block = re.compile(r"<(think|thinking)>.*?</\1>", re.DOTALL)
    while (found := block.search(text, end)) is not None and "<tool_call>" not in text[end : found.start()]:
        text = text[: found.start()] + text[found.end() :]
        end = found.start()
    head, call, tail = text.partition("<tool_call>")
    for tag in reversed(list(re.finditer(r"<(/?)(?:think|thinking)>", head))):
        if tag[1]:
            return head[tag.end() :] + call + tail
        head, call, tail = head[: tag.start()], "", ""
    return head + call + tail


TAGS = ["<think>", "</think>", "<thinking>", "</thinking>", "<tool_call>", "</tool_call>"]


@given(st.lists(st.sampled_from([*TAGS, "<th", "ink>", "a", "\n"]), max_size=14))
def test_reasoning_is_what_it_was(parts: list[str]) -> None:
    text = "".join(parts)
    assert without_reasoning(text) == searched_again_and_again(text)


class Watched(str):
    """A text that counts the characters which `find` may have to pass over."""

    passed = 0

    def find(self, *arguments: Any) -> int:
        found = super().find(*arguments)
        start = arguments[1] if len(arguments) > 1 else 0
        Watched.passed += (len(self) if found < 0 else found) - start
        return found


UNITS = [*TAGS, "<think><thinking>", "<think></thinking>", "<think>a</think>b", "<think><tool_call></think>", call("x")]


@pytest.mark.parametrize("unit", UNITS)
def test_a_turn_is_read_once(unit: str) -> None:
    Watched.passed = 0
    text = Watched(unit * 500)
    without_reasoning(text)
    assert Watched.passed <= 4 * len(text)


@pytest.mark.parametrize("unit", UNITS)
def test_eight_times_the_text_takes_no_sixty_times_the_time(unit: str) -> None:
    def seconds(count: int) -> float:
        times = []
        for _ in range(3):
            begun = time.thread_time()
            find_action(unit * count)
            times.append(time.thread_time() - begun)
        return min(times)

    assert seconds(4000) < 30 * seconds(500) + 0.01


def test_tool_is_a_schema_with_one_argument() -> None:
    tool = act_tool("Acts.", "go north")
    assert tool["function"]["name"] == ACT
    assert tool["function"]["parameters"]["required"] == ["action"]
