"""An episode's channel to an OpenEnv server: a WebSocket, whose session is the episode, or its HTTP calls.

OpenEnv's own servers keep an environment for each WebSocket. Their /reset and /step over HTTP make a new environment
for each call, so HTTP is only for servers that know an episode by its ``episode_id``, as `serve-env` does.
"""

from __future__ import annotations

import json
import secrets
import ssl
from typing import Any, Protocol

from agentforge.environments.agentgym.http import MOST_BYTES, Connection, decode
from agentforge.environments.base import EnvironmentFailed
from agentforge.environments.packages import needed

INVALID = ("VALIDATION_ERROR", "INVALID_ACTION")
"""Codes of errors that say that the action was no action; others say that the environment is broken."""


class ActionRefused(Exception):
    """The server does not take the action; the episode goes on."""


class Channel(Protocol):
    """One episode after another on a server."""

    def reset(self, arguments: dict[str, Any]) -> Any:
        """Begin an episode; returns the server's answer. Raises `EnvironmentFailed`."""

    def step(self, action: dict[str, Any]) -> Any:
        """Do an action; returns the server's answer. Raises `ActionRefused` or `EnvironmentFailed`."""

    def close(self) -> None:
        """Give the environment back."""


class HTTPChannel:
    """OpenEnv's calls over HTTP.

    Args:
        server: with the address of the environment.
    """

    def __init__(self, server: Connection) -> None:
        self._server = server
        self._episode = f"agentforge-{secrets.token_hex(8)}"

    def reset(self, arguments: dict[str, Any]) -> Any:
        return self._server.post("reset", {"episode_id": self._episode, **arguments}, again=True)

    def step(self, action: dict[str, Any]) -> Any:
        return self._server.post("step", {"action": action, "episode_id": self._episode})

    def close(self) -> None:
        self._server.close()


class SocketChannel:
    """OpenEnv's WebSocket; opened again for the episode after one that broke.

    Args:
        server: with the address of the environment; the socket is at ``/ws`` below it.
        environment: the id, for errors.

    Raises:
        UserError: the package websockets is missing.
    """

    def __init__(self, server: Connection, environment: str) -> None:
        self._client = needed("websockets.sync.client", environment, "openenv")
        self._server = server
        self._socket: Any = None

    def reset(self, arguments: dict[str, Any]) -> Any:
        if self._socket is None:
            self._socket = self._open()
        return self._ask("reset", arguments)

    def step(self, action: dict[str, Any]) -> Any:
        if self._socket is None:
            raise EnvironmentFailed(f"{self._server.name} has lost this episode; call reset to begin another")
        return self._ask("step", action)

    def _open(self) -> Any:
        url = "ws" + self._server.url.removeprefix("http") + "/ws"
        secure = {"ssl": ssl.create_default_context()} if url.startswith("wss") else {}
        try:
            # No proxy: environment variables do not stand between us and a server nearby.
            return self._client.connect(
                url, open_timeout=self._server.timeout, close_timeout=2, max_size=MOST_BYTES, proxy=None, **secure
            )
        except Exception as error:  # of several modules: refused, no handshake, no WebSocket there
            raise EnvironmentFailed(f"{self._server.name} opens no WebSocket at {url} ({error})") from None

    def _ask(self, kind: str, data: dict[str, Any]) -> Any:
        try:
            self._socket.send(json.dumps({"type": kind, "data": data}))
            said = self._socket.recv(timeout=self._server.timeout)
            answer = decode(said if isinstance(said, bytes) else said.encode())
        except Exception as error:
            # What is late would be read as the answer to the next question, so the socket is not used again.
            self.close()
            why = "has not answered in time" if isinstance(error, TimeoutError) else f"broke off ({error})"
            raise EnvironmentFailed(f"{self._server.name} {why} during {kind}") from None
        told = answer.get("data") if isinstance(answer, dict) else None
        if isinstance(answer, dict) and answer.get("type") == "error":
            told = told if isinstance(told, dict) else {}
            message = " ".join(str(told.get("message", answer)).split())[:200]
            if kind == "step" and told.get("code") in INVALID:
                raise ActionRefused(message)
            self.close()
            raise EnvironmentFailed(f"{self._server.name} answered {kind} with an error: {message}")
        return told

    def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            try:
                socket.send(json.dumps({"type": "close"}))
                socket.close()
            except Exception:  # it is gone already
                return
