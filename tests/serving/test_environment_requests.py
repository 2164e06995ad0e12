"""Whatever a client of `serve-env` sends, it gets an answer, and never one that says the server is at fault."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentforge.serving.environment_server import create_app

LEAF = (
    st.none()
    | st.booleans()
    | st.integers(-3, 60)
    | st.sampled_from([10**30, -(10**30), 1 << 62, 1.0, float("nan"), "default", "random", "\ud800"])
    | st.text()
)
JSON = st.recursive(LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
FIELDS = ["id", "data_idx", "seed", "action", "turn", "name", "episode_id", "task_id"]
CALLS = st.fixed_dictionaries(
    {"id": st.just("MINE") | JSON}, optional={name: JSON for name in FIELDS[1:]} | {"action": st.text() | JSON}
)
PATHS = ["reset", "step", "expert", "baseline", "close", "openenv/reset", "openenv/step"]
BODY = st.binary() | st.sampled_from([b"[" * 100_000, b"1" * 5000]) | (CALLS | JSON)


@pytest.fixture(scope="module", params=["affine:sat", "agentgym:textcraft", "shop"])
def app(request: pytest.FixtureRequest) -> FastAPI:
    options = {"affine:sat": {"n_vars": 4, "k": 2}, "shop": {"products": 20}}
    return create_app(request.param, options.get(request.param), max_sessions=1000)


def ask(app: FastAPI, method: str, path: str, body: bytes = b"", query: str = "") -> tuple[int, Any]:
    """Call the application; an exception that it does not answer with less than 500 is raised here."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http", "method": method, "path": f"/{path}", "raw_path": f"/{path}".encode(), "http_version": "1.1",
        "query_string": query.encode(), "headers": [(b"content-type", b"application/json")], "scheme": "http",
        "server": ("test", 80), "client": ("test", 1), "root_path": "",
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), BODY), min_size=1, max_size=4), st.booleans())
@example([("expert", {"id": "MINE"}), ("baseline", {"id": "MINE"})], False)
@example([("reset", {"id": "MINE", "data_idx": 10**30})], False)
@example([("openenv/reset", {}), ("openenv/step", {"action": {"text": "\ud800"}})], False)
def test_never_a_500(app: FastAPI, calls: list[tuple[str, Any]], begun: bool) -> None:
    _, made = ask(app, "POST", "create")
    if begun:
        assert ask(app, "POST", "reset", json.dumps(made | {"data_idx": 1}).encode())[0] == 200
    for path, body in calls:
        if isinstance(body, dict) and body.get("id") == "MINE":
            body = body | made
        status, answer = ask(app, "POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())
        assert status in (200, 400, 404, 409, 413, 422, 429)
        assert status == 200 or (set(answer) == {"error"} and "\n" not in answer["error"])
    ask(app, "POST", "close", json.dumps(made).encode())


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["difficulty", "observation", "openenv/state", "info"]), st.text() | st.integers().map(str))
@example("difficulty", "1" + "0" * 30)
@example("difficulty", "-1")
def test_nor_for_a_query(app: FastAPI, path: str, value: str) -> None:
    from urllib.parse import urlencode

    status, answer = ask(
        app, "GET", path, query=urlencode({"task_id": value, "id": value, "episode_id": value}, errors="replace")
    )
    assert status in (200, 400, 404, 422)
    assert status == 200 or set(answer) == {"error"}
