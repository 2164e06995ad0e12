"""`serve`: an OpenAI-compatible server around one model."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.responses import Response as HTTPResponse
from starlette.exceptions import HTTPException

from agentforge.errors import UserError
from agentforge.models.locate_model import locate_model
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.policies import Policy, open_policy
from agentforge.serving.openai_api import BadRequest, ChatRequest, Response, error_body
from agentforge.serving.turns import Delta, Spoken, speak

log = logging.getLogger(__name__)

MAX_WAITING = 16


class Engine:
    """Answers one request at a time; the others wait in a bounded queue.

    Args:
        policy: used by the engine's one thread only.
        max_waiting: requests beside the one being answered; more are turned away.
    """

    def __init__(self, policy: Policy, max_waiting: int = MAX_WAITING) -> None:
        self.policy = policy
        self.max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._accepted = 0

    async def answer(
        self, request: ChatRequest, on_delta: Callable[[Delta], None], cancelled: threading.Event
    ) -> Spoken:
        """Answer a request; ``on_delta`` is called in the event loop's thread.

        Raises:
            UserError: the queue is full, the conversation is none, or the model has failed.
        """
        if self._accepted > self.max_waiting:
            raise BadRequest(
                f"{self._accepted} requests are waiting already; try again later",
                status=429,
                code="rate_limit_exceeded",
            )
        loop = asyncio.get_running_loop()

        def run() -> Spoken:
            def hand_over(delta: Delta) -> None:
                loop.call_soon_threadsafe(on_delta, delta)

            sampling = request.sampling(self.policy)
            stop = request.stop_strings
            return speak(self.policy, request.conversation, sampling, hand_over, stop=stop, cancelled=cancelled)

        self._accepted += 1
        try:
            return await loop.run_in_executor(self._thread, run)
        except UserError:
            raise
        except Exception:
            log.exception("an answer failed")
            raise BadRequest("the model has failed; the server's log says why", status=500) from None
        finally:
            self._accepted -= 1

    def close(self) -> None:
        """Let the running answer end and start no other."""
        self._thread.shutdown(wait=True, cancel_futures=True)


def create_app(policy: Policy, max_waiting: int = MAX_WAITING) -> FastAPI:
    """Return the application: ``GET /v1/models``, ``POST /v1/chat/completions``, ``GET /health``."""
    engine = Engine(policy, max_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(title="agentforge", openapi_url=None, lifespan=lifespan)
    app.exception_handler(UserError)(_refused)
    app.exception_handler(HTTPException)(_not_found)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": policy.label, "object": "model", "created": 0, "owned_by": "agentforge"}
        return {"object": "list", "data": [entry]}

    @app.post("/v1/chat/completions")
    async def chat_completions(http: Request) -> HTTPResponse:
        request = ChatRequest.read(await http.body())
        if request.model != policy.label:
            message = f"there is no model '{request.model}' here, only '{policy.label}'"
            raise BadRequest(message, status=404, code="model_not_found", param="model")
        if request.stream:
            events = _events(engine, request)
            # Whatever can be wrong with the request shows before the first event: while there is a status to send.
            opening = await anext(events)
            return StreamingResponse(_followed_by(opening, events), media_type="text/event-stream")
        spoken = await _unless_gone(http, engine, request)
        return JSONResponse(Response(policy.label).whole(spoken))

    return app


async def _unless_gone(http: Request, engine: Engine, request: ChatRequest) -> Spoken:
    """Answer, and stop as soon as the client has hung up."""
    cancelled = threading.Event()
    answering = asyncio.ensure_future(engine.answer(request, lambda _: None, cancelled))
    while not (await asyncio.wait({answering}, timeout=0.5))[0]:
        if await http.is_disconnected():
            cancelled.set()
    return answering.result()


async def _events(engine: Engine, request: ChatRequest) -> AsyncIterator[str]:
    """Yield the server-sent events of a streamed answer."""
    response = Response(engine.policy.label)
    pieces: asyncio.Queue[Delta | None] = asyncio.Queue()
    cancelled = threading.Event()
    answering = asyncio.ensure_future(engine.answer(request, pieces.put_nowait, cancelled))
    answering.add_done_callback(lambda _: pieces.put_nowait(None))
    opened = False
    try:
        while (piece := await pieces.get()) is not None:
            if not opened:
                yield _event(response.first())
                opened = True
            yield _event(response.piece(piece))
        try:
            spoken = await answering
        except UserError as error:
            if not opened:
                raise
            yield _event(_error_of(error))  # too late for a status; clients look for this
            return
        if not opened:
            yield _event(response.first())
        include_usage = request.stream_options is not None and request.stream_options.include_usage
        for chunk in response.last(spoken, include_usage):
            yield _event(chunk)
        yield "data: [DONE]\n\n"
    finally:
        cancelled.set()


async def _followed_by(first: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in events:
        yield event


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


async def _refused(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(_error_of(error), error.status if isinstance(error, BadRequest) else 400)


def _error_of(error: Exception) -> dict[str, Any]:
    if not isinstance(error, BadRequest):
        return error_body(str(error))
    kind = {429: "rate_limit_error", 500: "server_error"}.get(error.status, "invalid_request_error")
    return error_body(str(error), kind, error.code, error.param)


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(f"{request.method} {request.url.path}: {error.detail}"), error.status_code)


def serve(recipe: Recipe, model: str | None = None, host: str = "127.0.0.1", port: int = 8080) -> None:
    """Serve a recipe's model until Ctrl-C.

    Args:
        recipe: see `locate_model`.
        model: see `locate_model`.
        host: whoever reaches it may use the model: there are no keys.
        port: 0 takes a free one.

    Raises:
        UserError: there is no such model, or the port is taken.
    """
    location = locate_model(recipe, model)
    with listen(host, port) as listening:
        policy = open_policy(location)
        bound = listening.getsockname()[1]
        log.info("serving '%s' at http://%s:%d/v1 (%s); Ctrl-C stops it", policy.label, host, bound, location.path)
        server = uvicorn.Server(uvicorn.Config(create_app(policy), log_level="warning"))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            log.info("stopped")


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything is loaded, so that a taken port is known in a second and not after minutes."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
    return listening
