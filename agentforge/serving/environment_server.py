"""`serve-env`: one kind of environment over HTTP, many episodes at a time.

Two manners: AgentGym's (``/create``, ``/reset``, ``/step``, ``/observation``, ``/close``), which our own client and
those of AgentGym's TextCraft and BabyAI speak, and OpenEnv's below ``/openenv``: see `openenv_routes`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentforge.environments.base import Environment, EnvironmentFailed, Step
from agentforge.environments.registry import make
from agentforge.errors import UserError
from agentforge.serving.environment_sessions import Refused, Sessions
from agentforge.serving.failures import FailureAnswer
from agentforge.serving.openai_server import listen
from agentforge.serving.openenv_routes import Number, Seed, add_openenv, existing

log = logging.getLogger(__name__)

MAX_SESSIONS = 64
IDLE_SECONDS = 1800.0


MOST_BYTES = 4 << 20
"""Of a body: a turn of 200,000 tokens has about one million characters, and JSON may write a character as six."""


class Call(BaseModel):
    """The body of a call in AgentGym's manner; ``seed`` and ``turn`` are ours."""

    model_config = ConfigDict(extra="ignore")

    id: Number
    data_idx: Number = 0
    seed: Seed = 0
    action: str | None = None
    turn: str | None = None
    name: str = "random"


def create_app(
    environment_id: str,
    options: dict[str, Any] | None = None,
    max_sessions: int = MAX_SESSIONS,
    idle_seconds: float = IDLE_SECONDS,
    most_bytes: int = MOST_BYTES,
) -> FastAPI:
    """Return the application.

    Args:
        max_sessions: environments in use at one time.
        idle_seconds: after which one that nobody uses is closed.
        most_bytes: of a request's body.

    Raises:
        UserError: the environment cannot be made.
    """
    model = make(environment_id, options)  # tells about itself, and that the options are right
    sessions = Sessions(lambda: make(environment_id, options), max_sessions, idle_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(_watch(sessions))
        yield
        watching.cancel()
        await asyncio.to_thread(sessions.close_all)
        model.close()

    app = FastAPI(title="agentforge", openapi_url=None, lifespan=lifespan)
    app.add_middleware(BodyLimit, most=most_bytes)
    app.add_middleware(FailureAnswer, body=_failed)
    for kind in (Refused, UserError, EnvironmentFailed, RequestValidationError, HTTPException):
        app.exception_handler(kind)(_refused)
    _agentgym_routes(app, model, sessions)
    _advice_routes(app, model, sessions)
    add_openenv(app, model, sessions)
    return app


async def _watch(sessions: Sessions) -> None:
    """Close idle environments also while nobody asks for new ones."""
    while True:
        await asyncio.sleep(min(60.0, sessions.idle_seconds / 2))
        await asyncio.to_thread(sessions.expire)


def _agentgym_routes(app: FastAPI, model: Environment, sessions: Sessions) -> None:
    @app.get("/info")
    def info() -> dict[str, Any]:
        names = ("id", "tasks", "max_turns", "instructions", "action_tool", "baselines", "graded")
        return {name: getattr(model, name) for name in names} | {"in_use": len(sessions)}

    @app.get("/difficulty")
    def difficulty(task_id: int) -> dict[str, int]:
        return {"difficulty": model.difficulty(existing(model, task_id, "task_id"))}

    @app.post("/create")
    def create() -> dict[str, Any]:
        return {"id": sessions.create()}

    @app.post("/reset")
    def reset(call: Call) -> dict[str, Any]:
        task_id = existing(model, call.data_idx, "data_idx")
        with sessions.using(call.id) as session:
            observation = session.begin(call.seed, task_id)
        level = model.difficulty(task_id)
        return {"observation": observation, "reward": 0.0, "score": 0.0, "done": False, "difficulty": level}

    @app.post("/step")
    def step(call: Call) -> dict[str, Any]:
        turn = _turn(call)
        with sessions.using(call.id) as session:
            return _answer(session.act(turn))

    @app.get("/observation")
    def observation(id: int) -> str:
        with sessions.using(id) as session:
            return session.observation or ""

    @app.post("/close")
    def close(id: Annotated[Number, Body(embed=True)]) -> dict[str, bool]:
        return {"closed": sessions.close(id)}


def _advice_routes(app: FastAPI, model: Environment, sessions: Sessions) -> None:
    @app.post("/expert")
    def expert(call: Call) -> dict[str, Any]:
        with sessions.using(call.id) as session:
            return {"turn": session.expert()}

    @app.post("/baseline")
    def baseline(call: Call) -> dict[str, Any]:
        if call.name not in model.baselines:
            known = ", ".join(model.baselines) or "none"
            raise Refused(400, f"name: {model.id} has no baseline '{call.name[:80]}'; it has: {known}")
        with sessions.using(call.id) as session:
            return {"turn": session.baseline(call.name, call.seed)}


def _turn(call: Call) -> str:
    """Return the assistant's turn: as it is (``turn``), or made of the bare action that AgentGym's clients send."""
    if call.turn is not None:
        return call.turn
    if call.action is None:
        raise Refused(422, "a step needs an 'action' or a whole 'turn'")
    return f"Action: {call.action}"


def _answer(step: Step) -> dict[str, Any]:
    return {
        "observation": step.observation,
        "reward": step.reward,
        "score": step.info["score"],
        "done": step.terminated or step.truncated,
        "terminated": step.terminated,
        "truncated": step.truncated,
        "info": dict(step.info),
    }


async def _refused(request: Any, error: Exception) -> JSONResponse:
    """Errors of a client are one sentence and no traceback."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)
    if isinstance(error, HTTPException):
        return JSONResponse({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)
    status = error.status if isinstance(error, Refused) else 400 if isinstance(error, UserError) else 502
    return JSONResponse({"error": str(error)}, status)


def _failed() -> dict[str, Any]:
    return {"error": "the environment has failed; the server's log says why"}


class BodyLimit:
    """Answers 413 to a larger body, and reads no more of it.

    Args:
        app: gets the others.
        most: bytes.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:  # FastAPI lets this one through where it reads the body
                raise HTTPException(413, f"the body has more than {self.most:,} bytes")
            return message

        await self.app(scope, counted, send)


def serve(
    environment_id: str,
    options: dict[str, Any],
    host: str = "127.0.0.1",
    port: int = 36001,
    max_sessions: int = MAX_SESSIONS,
    idle_seconds: float = IDLE_SECONDS,
) -> None:
    """Serve an environment until Ctrl-C.

    Args:
        host: whoever reaches it may use it: there are no keys.
        port: 0 takes a free one.

    Raises:
        UserError: there is no such environment, or the port is taken.
    """
    with listen(host, port) as listening:
        app = create_app(environment_id, options, max_sessions, idle_seconds)
        bound = listening.getsockname()[1]
        log.info("serving %s at http://%s:%d (OpenEnv: /openenv); Ctrl-C stops it", environment_id, host, bound)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            log.info("stopped")
