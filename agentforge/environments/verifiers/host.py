"""The event loop on which verifiers plays, and the endpoint where it asks for the model's turns.

verifiers is in charge of an episode and calls a model; our environments are asked for a step. So each episode runs as a
task of a loop in a thread of its own, calls an OpenAI-compatible endpoint on loopback, and waits there until `step`
brings the turn.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import cache
from typing import Any

from agentforge.environments.base import EnvironmentFailed


class Play:
    """One episode.

    Attributes:
        key: its part of the endpoint's path.
        events: a request for a turn (``dict``, the body), or the finished episode of verifiers, or an exception.
    """

    def __init__(self, host: Host) -> None:
        self.key = secrets.token_hex(8)
        self.events: queue.Queue[Any] = queue.Queue()
        self._host = host
        self._wanted: asyncio.Future[dict[str, Any]] | None = None
        self._running: Future[Any] | None = None

    def begin(self, episode: Coroutine[Any, Any, Any]) -> None:
        """Let it run until it asks for a turn."""
        self._running = self._host.submit(episode)
        self._running.add_done_callback(self._finished)

    def _finished(self, done: Future[Any]) -> None:
        if not done.cancelled():
            self.events.put(done.exception() or done.result())

    async def asked(self, body: dict[str, Any]) -> dict[str, Any]:
        """Wait for the turn that a request asks for."""
        self._wanted = asyncio.get_running_loop().create_future()
        self.events.put(body)
        return await self._wanted

    def answer(self, message: dict[str, Any]) -> None:
        """Bring the turn."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self._host.loop.call_soon_threadsafe(_set, wanted, message)

    def next(self, timeout: float) -> Any:
        """Return the next event.

        Raises:
            EnvironmentFailed: none came in time, or the episode ended with an error.
        """
        try:
            event = self.events.get(timeout=timeout)
        except queue.Empty:
            raise EnvironmentFailed(f"verifiers has done nothing for {timeout:g} seconds") from None
        if isinstance(event, BaseException):
            raise EnvironmentFailed(f"verifiers failed: {type(event).__name__}: {event}"[:300])
        return event

    def end(self) -> None:
        """Give the episode up, if it still runs."""
        if self._running is not None:
            self._running.cancel()
        self._host.plays.pop(self.key, None)


def _set(wanted: asyncio.Future[dict[str, Any]], message: dict[str, Any]) -> None:
    if not wanted.done():  # nobody waits any more if the request was cancelled
        wanted.set_result(message)


class Host:
    """A loop in a thread, and the endpoint on it.

    Attributes:
        loop: the loop.
        plays: episodes by key.
        port: of the endpoint.
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.plays: dict[str, Play] = {}
        self._held: list[Any] = []
        threading.Thread(target=self.loop.run_forever, daemon=True, name="verifiers").start()
        self.port: int = self.submit(self._serve()).result(30)

    def submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def hold(self, context: Any) -> None:
        """Enter an asynchronous context and stay in it as long as the process lives."""
        self.submit(context.__aenter__()).result(120)
        self._held.append(context)

    def play(self) -> Play:
        """Return a new episode that has not begun."""
        play = Play(self)
        self.plays[play.key] = play
        return play

    async def _serve(self) -> int:
        from aiohttp import web

        async def complete(request: web.Request) -> web.Response:
            play = self.plays.get(request.match_info["key"])
            if play is None:
                return web.json_response({"error": {"message": "this episode is over"}}, status=404)
            return web.json_response(_completion(await play.asked(await request.json())))

        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/{key}/v1/chat/completions", complete)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self._held.append(runner)
        return int(runner.addresses[0][1])


@cache
def the_host() -> Host:
    """Return the host of this process."""
    return Host()


def _completion(message: dict[str, Any]) -> dict[str, Any]:
    """Return a turn as an answer of OpenAI's chat completions. Tokens are counted elsewhere."""
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": "chat.completion",
        "created": 0,
        "model": "agentforge",
        "choices": [{"index": 0, "finish_reason": reason, "message": message}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }
