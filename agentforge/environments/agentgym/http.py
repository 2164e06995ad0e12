"""Calls of an environment server: what fails is told in one sentence, and nothing is sent twice that may have acted.

A server is not ours, and may be broken in any way. Whatever it sends, this module gives out plain values or raises
`EnvironmentFailed`, which costs one episode; any other exception would cost the run.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any, TypeVar

import httpx2 as httpx

from agentforge.environments.base import EnvironmentFailed
from agentforge.http_client import AnswerTooLarge, open_client

Kind = TypeVar("Kind")

WAITS = (0.2, 0.5, 1.0, 2.0)
"""Seconds before each further try to connect."""
CLOSE_SECONDS = 5.0
"""For one call of /close: it only makes room, and a server that is stuck shall not hold the next episode up."""
KEEP_ALIVE = 2.0
"""Seconds an idle connection is used again: uvicorn closes its own after five, and a model may think longer."""
MOST_BYTES = 16 << 20
"""Bytes of an answer: an observation that fills a context of a million tokens has a quarter of that."""
MOST_LEVELS = 32
"""Objects and lists inside each other; no dialect has more than three."""
SHOWN = 200
"""Characters of a reply that an error shows."""


class ServerUnreachable(EnvironmentFailed):
    """Nobody listens there: the request was never sent."""


class BrokeOff(EnvironmentFailed):
    """The connection ended before the answer did: nobody knows whether the request was acted on."""


class Connection:
    """JSON over HTTP to one server.

    Args:
        url: of the server, without a path of a call.
        timeout: seconds for one answer, from connecting to its last byte.
        name: what errors call the server.
        most_bytes: of an answer.
    """

    def __init__(self, url: str, timeout: float, name: str, most_bytes: int = MOST_BYTES) -> None:
        self.url = url.rstrip("/")
        self.name = f"the {name} server at {self.url}"
        self.timeout = timeout
        self._client = open_client(timeout, most_bytes, tls=self.url.startswith("https"), keep_alive=KEEP_ALIVE)

    def get(self, path: str, **parameters: Any) -> Any:
        """GET; tried again while nobody listens."""
        return self._call("GET", path, again=True, params=parameters)

    def post(self, path: str, body: dict[str, Any], again: bool = False, timeout: float | None = None) -> Any:
        """POST.

        Args:
            again: try again while nobody listens (for calls that begin something; an episode that lost its server is
                lost).
            timeout: seconds; None: those of the connection.

        Raises:
            Unreachable: nobody listens.
            EnvironmentFailed: no whole answer in time, a body that is too large, an HTTP error, no JSON, or
                ``{"error": ...}`` (which AgentGym's servers send with status 200).
        """
        return self._call("POST", path, again=again, json=body, timeout=timeout or self.timeout)

    def free(self, body: dict[str, Any]) -> None:
        """POST /close. Sent again if the connection breaks off, which does no harm here.

        It often does: this call follows one that failed, and a server that has answered 500 may close the connection
        at the moment at which it is used again.

        Raises:
            EnvironmentFailed: as `post`.
        """
        timeout = min(self.timeout, CLOSE_SECONDS)
        try:
            self.post("close", body, timeout=timeout)
        except BrokeOff:
            self.post("close", body, timeout=timeout)

    def close(self) -> None:
        """End the connection, not the environment."""
        self._client.close()

    def _call(self, method: str, path: str, again: bool, **content: Any) -> Any:
        for wait in (*(WAITS if again else ()), None):
            try:
                response = self._client.request(method, f"{self.url}/{path}", **content)
                break
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if wait is None:
                    raise ServerUnreachable(f"{self.name} cannot be reached ({_line(str(error))})") from None
                time.sleep(wait)
            except httpx.TimeoutException:
                raise EnvironmentFailed(f"{self.name} has not answered {path} in time") from None
            except AnswerTooLarge as error:
                raise EnvironmentFailed(f"{self.name} answered {path} with {error}") from None
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # a host's name may be no name
                told = _line(str(error)) or type(error).__name__
                raise BrokeOff(f"{self.name} broke off during {path} ({told})") from None
        return self._read(path, response.status_code, response.content)

    def _read(self, path: str, status: int, body: bytes) -> Any:
        if status >= 400:
            raise EnvironmentFailed(f"{self.name} answered {path} with HTTP {status}: {_shown(body)}")
        try:
            answer = decode(body)
        except ValueError as error:
            raise EnvironmentFailed(
                f"{self.name} answered {path} with something that is not JSON ({_line(str(error))}): {_shown(body)!r}"
            ) from None
        if isinstance(answer, dict) and answer.get("error"):
            raise EnvironmentFailed(f"{self.name} answered {path} with an error: {_line(str(answer['error']))}")
        return answer


def decode(body: bytes) -> Any:
    """Return JSON as plain values that can be written again: of few levels, and of text that is Unicode.

    Raises:
        ValueError: it is none. JSON of many levels would end in a `RecursionError` here or wherever it is shown. A
            lone surrogate (a half of a character, which ``"\\ud800"`` can say in JSON) passes for text until the
            episode is written to a file, hours later.
    """
    try:
        answer = json.loads(body.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check(answer, MOST_LEVELS)
    return answer


def _check(value: Any, levels: int) -> None:
    if levels < 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        value.encode("utf-8")
    elif isinstance(value, dict):
        for key, each in value.items():
            key.encode("utf-8")
            _check(each, levels - 1)
    elif isinstance(value, list):
        for each in value:
            _check(each, levels - 1)


def field(connection: Connection, answer: Any, key: str | int, kind: type[Kind]) -> Kind:
    """Return one part of an answer.

    Raises:
        EnvironmentFailed: it is not there, or of another type.
    """
    try:
        found = answer[key]
    except (KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise _unusable(connection, answer, key)
    return found


def number(connection: Connection, answer: Any, key: str) -> float:
    """Return a finite number of an answer; see `field`."""
    found = answer.get(key) if isinstance(answer, dict) else None
    if not isinstance(found, (int, float)) or isinstance(found, bool):
        raise _unusable(connection, answer, key)
    try:
        value = float(found)
    except OverflowError:  # JSON's whole numbers may have hundreds of digits
        value = math.inf
    if not math.isfinite(value):
        raise EnvironmentFailed(f"{connection.name} sent {key!r} as {value}, which is not a finite number")
    return value


def texts(connection: Connection, answer: Any, key: str) -> list[str]:
    """Return a list of texts of an answer; see `field`."""
    found = field(connection, answer, key, list)
    if not all(isinstance(each, str) for each in found):
        raise _unusable(connection, answer, key)
    return found


def _unusable(connection: Connection, answer: Any, key: str | int) -> EnvironmentFailed:
    return EnvironmentFailed(
        f"{connection.name} sent an answer without a usable {key!r}: {_line(repr(answer))}; is it the right dialect?"
    )


def _shown(body: bytes) -> str:
    return _line(body[: 4 * SHOWN].decode("utf-8", "replace"))


def _line(text: str) -> str:
    """Return the beginning of a text as part of one line."""
    return " ".join(text[: 2 * SHOWN].split())[:SHOWN]
