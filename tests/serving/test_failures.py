"""A server whose code has failed says so, and the same connection takes the next request."""

from __future__ import annotations

import httpx2 as httpx
from fastapi import FastAPI

from agentforge.serving.failures import FailureAnswer
from tests.environments.fake_agentgym import serving


def test_the_connection_outlives_a_failure() -> None:
    app = FastAPI()
    app.add_middleware(FailureAnswer, body=lambda: {"error": "it has failed"})

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("a bug")

    @app.get("/sound")
    def sound() -> str:
        return "sound"

    with serving(app) as url, httpx.Client() as client:
        for _ in range(20):
            answer = client.get(f"{url}/broken")
            assert (answer.status_code, answer.json()) == (500, {"error": "it has failed"})
            assert client.get(f"{url}/sound").json() == "sound"
