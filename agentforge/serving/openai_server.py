"""`serve`: an OpenAI-compatible server around one model."""

from __future__ import annotations

import asyncio
import ipaddress
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
from agentforge.rollouts.policies.base import Policy
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.serving.answering import Event, answer
from agentforge.serving.api_key import KeyCheck, check_key
from agentforge.serving.failures import FailureAnswer
from agentforge.serving.openai_api import ChatRequest, Response
from agentforge.serving.openai_errors import BadRequest, error_body
from agentforge.serving.speaking import Spoken

log = logging.getLogger(__name__)

MAX_WAITING = 16
MAX_BODY = 16 << 20
"""Bytes. A context of a million tokens is some 4 MiB of text."""


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
        self, request: ChatRequest, on_event: Callable[[Event], None], cancelled: threading.Event
    ) -> list[Spoken]:
        """Answer a request; ``on_event`` is called in the event loop's thread.

        Raises:
            UserError: the queue is full, the conversation is none, or the model has failed.
        """
        if self._accepted > self.max_waiting:
            raise BadRequest(
                f"{self._accepted} requests are already waiting; try again later",
                status=429,
                code="rate_limit_exceeded",
            )
        loop = asyncio.get_running_loop()

        def hand_over(event: Event) -> None:
            loop.call_soon_threadsafe(on_event, event)

        self._accepted += 1
        try:
            return await loop.run_in_executor(self._thread, answer, self.policy, request, hand_over, cancelled)
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


def create_app(policy: Policy, max_waiting: int = MAX_WAITING, api_key: str | None = None) -> FastAPI:
    """Return the application: models, ``POST /v1/chat/completions``, ``GET /health``.

    Args:
        max_waiting: see `Engine`.
        api_key: what clients must send as ``Authorization: Bearer ...``, except for ``/health``; None: nothing.
    """
    engine = Engine(policy, max_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPI(title="agentforge", openapi_url=None, lifespan=lifespan)
    if api_key is not None:
        app.add_middleware(KeyCheck, api_key=api_key)
    app.add_middleware(FailureAnswer, body=_failed)
    for kind, handler in ((UserError, _refused), (HTTPException, _not_found)):
        app.exception_handler(kind)(handler)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    entry = {"id": policy.label, "object": "model", "created": 0, "owned_by": "agentforge"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [entry]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        _must_be_here(name, policy)
        return entry

    @app.post("/v1/chat/completions")
    async def chat_completions(http: Request) -> HTTPResponse:
        request = ChatRequest.read(await _body(http))
        _must_be_here(request.model, policy)
        if request.stream:
            events = _events(engine, request)
            # Whatever can be wrong with the request shows before the first event: while there is a status to send.
            opening = await anext(events)
            return StreamingResponse(_followed_by(opening, events), media_type="text/event-stream")
        choices = await _unless_gone(http, engine, request)
        return JSONResponse(_response(engine, request).whole(choices))

    return app


def _must_be_here(name: str, policy: Policy) -> None:
    if name != policy.label:
        message = f"there is no model '{name}' here, only '{policy.label}'"
        raise BadRequest(message, status=404, code="model_not_found", param="model")


async def _body(http: Request) -> bytes:
    """Return a request's body; one that is too long is not read to its end."""
    body = bytearray()
    async for piece in http.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise BadRequest(f"the request is larger than {MAX_BODY >> 20} MiB; shorten the conversation", status=413)
    return bytes(body)


def _response(engine: Engine, request: ChatRequest) -> Response:
    return Response(engine.policy.label, logprobs=bool(request.logprobs))


async def _unless_gone(http: Request, engine: Engine, request: ChatRequest) -> list[Spoken]:
    """Answer, and stop as soon as the client has hung up."""
    cancelled = threading.Event()
    answering = asyncio.ensure_future(engine.answer(request, lambda _: None, cancelled))
    while not (await asyncio.wait({answering}, timeout=0.5))[0]:
        if await http.is_disconnected():
            cancelled.set()
    return answering.result()


async def _events(engine: Engine, request: ChatRequest) -> AsyncIterator[str]:
    """Yield the server-sent events of a streamed answer."""
    response = _response(engine, request)
    happened: asyncio.Queue[Event | None] = asyncio.Queue()
    cancelled = threading.Event()
    answering = asyncio.ensure_future(engine.answer(request, happened.put_nowait, cancelled))
    answering.add_done_callback(lambda _: happened.put_nowait(None))
    opened: set[int] = set()
    try:
        while (event := await happened.get()) is not None:
            if event.choice not in opened:
                yield _event(response.first(event.choice))
                opened.add(event.choice)
            for chunk in _chunks(response, event):
                yield _event(chunk)
        try:
            choices = await answering
        except UserError as error:
            if not opened:
                raise
            yield _event(_error_of(error))  # too late for a status; clients look for this
            return
        if request.stream_options is not None and request.stream_options.include_usage:
            yield _event(response.usage(choices))
        yield "data: [DONE]\n\n"
    finally:
        cancelled.set()


def _chunks(response: Response, event: Event) -> list[dict[str, Any]]:
    chunks = [] if event.delta is None else [response.piece(event.choice, event.delta, event.tokens)]
    return chunks if event.spoken is None else [*chunks, *response.last(event.choice, event.spoken)]


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


def _failed() -> dict[str, Any]:
    return error_body("the server has failed; its log says why", "server_error")


async def _not_found(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(f"{request.method} {request.url.path}: {error.detail}"), error.status_code)


def serve(
    recipe: Recipe,
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
) -> None:
    """Serve a recipe's model until Ctrl-C.

    Args:
        recipe: see `locate_model`.
        model: see `locate_model`.
        host: whoever reaches it may use the model, unless there is a key.
        port: 0 takes a free one.
        api_key: what clients must send.

    Raises:
        UserError: there is no such model, the port is taken, or the key is none that a client could send.
    """
    check_key(api_key)
    location = locate_model(recipe, model)
    with listen(host, port) as listening:
        policy = open_policy(location)
        bound = listening.getsockname()[1]
        if api_key is None and not is_loopback(listening):
            log.warning("whoever reaches %s may use the model; set AGENTFORGE_API_KEY to ask for a key", host)
        log.info("serving '%s' at http://%s:%d/v1 (%s); Ctrl-C stops it", policy.label, host, bound, location.path)
        server = uvicorn.Server(uvicorn.Config(create_app(policy, api_key=api_key), log_level="warning"))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            log.info("stopped")


def is_loopback(listening: socket.socket) -> bool:
    """Tell whether only this machine reaches a socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


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
