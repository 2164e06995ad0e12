"""Calls of an environment server: what fails is told in one sentence, and nothing is sent twice that may have acted."""

from __future__ import annotations

import time
from typing import Any

import httpx2 as httpx

from agentforge.environments.base import EnvironmentFailed

WAITS = (0.2, 0.5, 1.0, 2.0)
"""Seconds before each further try to connect."""
KEEP_ALIVE = 2.0
"""Seconds an idle connection is used again: uvicorn closes its own after five, and a model may think longer."""
SHOWN = 200
"""Characters of a reply that an error shows."""


class Unreachable(EnvironmentFailed):
    """Nobody listens there: the request was never sent."""


class Connection:
    """JSON over HTTP to one server.

    Args:
        url: of the server, without a path of a call.
        timeout: seconds for one answer.
        name: what errors call the server.
    """

    def __init__(self, url: str, timeout: float, name: str) -> None:
        self.url = url.rstrip("/")
        self.name = f"the {name} server at {self.url}"
        limits = httpx.Limits(keepalive_expiry=KEEP_ALIVE)
        verify = self.url.startswith("https")  # reading the certificates takes longer than a hundred steps
        self._client = httpx.Client(timeout=timeout, limits=limits, trust_env=False, verify=verify)

    def get(self, path: str, **parameters: Any) -> Any:
        """GET; tried again while nobody listens."""
        return self._call("GET", path, again=True, params=parameters)

    def post(self, path: str, body: dict[str, Any], again: bool = False) -> Any:
        """POST.

        Args:
            again: try again while nobody listens (for calls that begin something; an episode that lost its server is
                lost).

        Raises:
            Unreachable: nobody listens.
            EnvironmentFailed: no answer in time, an HTTP error, no JSON, or ``{"error": ...}`` (which AgentGym's
                servers send with status 200).
        """
        return self._call("POST", path, again=again, json=body)

    def close(self) -> None:
        self._client.close()

    def _call(self, method: str, path: str, again: bool, **content: Any) -> Any:
        for wait in (*(WAITS if again else ()), None):
            try:
                response = self._client.request(method, f"{self.url}/{path}", **content)
                break
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if wait is None:
                    raise Unreachable(f"{self.name} cannot be reached ({error})") from None
                time.sleep(wait)
            except httpx.TimeoutException:
                raise EnvironmentFailed(f"{self.name} has not answered {path} in time") from None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise EnvironmentFailed(
                    f"{self.name} broke off during {path} ({error or type(error).__name__})"
                ) from None
        return self._read(path, response)

    def _read(self, path: str, response: httpx.Response) -> Any:
        shown = response.text[:SHOWN]
        if response.status_code >= 400:
            raise EnvironmentFailed(f"{self.name} answered {path} with HTTP {response.status_code}: {shown}")
        try:
            answer = response.json()
        except ValueError:
            raise EnvironmentFailed(f"{self.name} answered {path} with something that is no JSON: {shown!r}") from None
        if isinstance(answer, dict) and answer.get("error"):
            raise EnvironmentFailed(f"{self.name} answered {path} with an error: {str(answer['error'])[:SHOWN]}")
        return answer


def field(connection: Connection, answer: Any, key: str | int, kind: type | tuple[type, ...]) -> Any:
    """Return one part of an answer.

    Raises:
        EnvironmentFailed: it is not there, or of another type.
    """
    try:
        found = answer[key]
    except (KeyError, IndexError, TypeError):
        found = None
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise EnvironmentFailed(
            f"{connection.name} sent an answer without a usable {key!r}: {str(answer)[:SHOWN]}; "
            "is it the right dialect?"
        )
    return found


def number(connection: Connection, answer: Any, key: str) -> float:
    """Return a finite number of an answer; see `field`."""
    found = float(field(connection, answer, key, (int, float)))
    if found != found or found in (float("inf"), float("-inf")):
        raise EnvironmentFailed(f"{connection.name} sent {key!r} as {found}")
    return found
