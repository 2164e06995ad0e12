"""Whatever a server answers, it costs an episode at most: nothing but `EnvironmentFailed` comes out of a client."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from random import Random

import httpx2 as httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentforge.environments.agentgym import http as agentgym_http
from agentforge.environments.agentgym.dialects import DIALECTS
from agentforge.environments.agentgym.environment import Remote, Served
from agentforge.environments.agentgym.http import decode
from agentforge.environments.base import EnvironmentFailed, Step

ABOUT = {
    "id": "x", "instructions": "", "graded": False, "action_tool": {}, "baselines": [], "max_turns": 5, "tasks": 9,
}  # fmt: skip
SURROGATES = st.characters(categories=["Cs"])
TEXT = st.text() | st.text(SURROGATES, min_size=1, max_size=3)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), math.nan, math.inf, 1e308, -1.5])
    | st.floats()
    | TEXT
)
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
# Answers that are nearly right: every key that some dialect reads, each with a value of its kind or with anything.
INFO = {
    "success": st.booleans() | JSON,
    "valid_action": st.booleans() | JSON,
    "score": st.floats(0, 1) | JSON,
    "problem": st.text() | JSON,
    "available_actions": st.lists(st.text(), max_size=3) | JSON,
}
PARTS = {
    "observation": st.text() | JSON,
    "state": st.text() | JSON,
    "reward": st.floats(0, 1) | JSON,
    "score": st.integers(-100, 100) | JSON,
    "done": st.booleans() | JSON,
    "terminated": st.booleans() | JSON,
    "truncated": st.booleans() | JSON,
    "available_actions": st.lists(st.text(), max_size=3) | JSON,
    "clickables": st.lists(st.text(), max_size=3) | JSON,
    "has_search_bar": st.booleans() | JSON,
    "task_description": st.text() | JSON,
    "turn": st.text() | JSON,
    "difficulty": st.integers(0, 9) | JSON,
    "info": st.fixed_dictionaries({}, optional=INFO) | JSON,
}
NEAR = st.fixed_dictionaries({}, optional=PARTS) | st.fixed_dictionaries(PARTS) | TEXT
DEEP = [
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b"[" * 900 + b"]" * 900,
    b'{"observation": ' + b"[" * 500 + b"]" * 500 + b"}",
]
BODY = st.binary() | st.sampled_from(DEEP) | (JSON | NEAR).map(lambda value: json.dumps(value).encode())
REPLIES = st.lists(st.tuples(st.sampled_from([200, 200, 200, 200, 302, 404, 500]), BODY), min_size=6, max_size=6)


@pytest.fixture(scope="module", autouse=True)
def answers() -> Iterator[list[tuple[int, bytes]]]:
    """Let every client of this module be answered by this list, after a right beginning; a 200 with {} behind it."""
    waiting: list[tuple[int, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path in ("/create", "/info") and not waiting:
            right = ABOUT if request.url.path == "/info" else 7 if request.url.host == "webshop" else {"id": 7}
            return httpx.Response(200, json=right)
        status, body = waiting.pop(0) if waiting else (200, b"{}")
        return httpx.Response(status, content=body)

    with pytest.MonkeyPatch.context() as patch:
        transport = httpx.MockTransport(answer)
        patch.setattr(agentgym_http, "open_client", lambda *_, **__: httpx.Client(transport=transport))
        yield waiting


def check(step: Step) -> None:
    """What is handed on can be compared, added up and written to a file."""
    json.dumps([step.observation, step.info], ensure_ascii=False, allow_nan=False).encode()
    assert math.isfinite(step.reward) and 0 <= step.info["score"] <= 1
    assert {type(value) for value in (step.terminated, step.truncated, *list(step.info.values())[:2])} == {bool}


@pytest.mark.parametrize("dialect", [*DIALECTS, "served"])
@settings(max_examples=30, deadline=None)
@given(replies=REPLIES)
@example(replies=[(200, b'{"observation": "\\ud800"}')])
@example(
    replies=[(200, b'{"observation": "x"}'), (200, b'{"observation": "x", "done": false, "reward": 1' + b"0" * 400)]
)
def test_any_answer(dialect: str, replies: list[tuple[int, bytes]], answers: list[tuple[int, bytes]]) -> None:
    answers.clear()
    client = Served("http://served") if dialect == "served" else Remote(dialect, f"http://{dialect}")
    client._held.open()
    answers.extend(replies)
    try:
        client.reset(0, 0).encode()
        while answers:
            step = client.step("Action: click[x]")
            check(step)
            if step.terminated or step.truncated:
                break
    except EnvironmentFailed as error:
        assert "\n" not in str(error)
        str(error).encode()
    with suppress(EnvironmentFailed):
        client.expert()
        client.baseline("random", Random(0))
    client.close()


def test_a_close_is_sent_again_where_the_connection_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path == "/step":
            return httpx.Response(500)
        if asked.count("/close") == 1:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        return httpx.Response(200, json={"id": 7, "observation": "x"})

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(agentgym_http, "open_client", lambda *_, **__: client)
    remote = Remote("textcraft", "http://breaks")
    remote.reset(0, 0)
    with pytest.raises(EnvironmentFailed, match="HTTP 500"):
        remote.step("Action: x")
    assert asked == ["/create", "/reset", "/step", "/close", "/close"]


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_what_is_decoded_can_be_written(body: bytes) -> None:
    try:
        value = decode(body)
    except ValueError:
        return
    json.dumps(value, ensure_ascii=False).encode()
    repr(value)
