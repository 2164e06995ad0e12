"""Finding a server: its address in the recipe, and whether the right one is there when a run begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import httpx2 as httpx

from agentforge.environments.agentgym.http import Connection, ServerUnreachable
from agentforge.environments.base import EnvironmentFailed
from agentforge.environments.options import as_number
from agentforge.errors import UserError

Answer = TypeVar("Answer")

DAY = 86_400.0

_right: dict[tuple[str, str], Any] = {}
"""What servers answered to the first call of this process, by dialect and address: see `first_call`."""


def connect(key: str, url: str | None, timeout: float, name: str, launch: str) -> Connection:
    """Return the connection to the server of an environment; nothing is sent yet.

    Args:
        key: of the environment in the recipe.
        url: of the server.
        timeout: seconds for one whole answer.
        name: what errors call the server.
        launch: how one is started.

    Raises:
        UserError: there is no address, or it is none.
    """
    as_number(timeout, f"{key}.timeout", over=True, most=DAY)
    if not url:
        raise UserError(f"{key} needs a server: start it with {launch} and give its address as url: http://HOST:PORT")
    try:
        right = isinstance(url, str) and url.startswith(("http://", "https://")) and bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        right = False
    if not right:
        raise UserError(f"{key}.url is {url!r}; write it as http://HOST:PORT")
    return Connection(url, timeout, name)


def first_call(server: Connection, kind: str, launch: str, call: Callable[[], Answer]) -> Answer | Any:
    """Find out at once whether a server is there and is the right one.

    Only the first time in a process is it the recipe's error that it is not. Environments are made in the middle of a
    run too, in place of one that failed, perhaps while the server restarts; then the next `reset` fails, and costs one
    episode instead of the run. What the server said of itself the first time is used until it answers again.

    Raises:
        UserError: it is not, and never was in this process.
    """
    known = (kind, server.url)
    try:
        _right[known] = answer = call()
    except EnvironmentFailed as error:
        if known in _right:
            return _right[known]
        server.close()
        if isinstance(error, ServerUnreachable):
            raise UserError(f"{error}; start it with {launch}, or correct url") from None
        raise UserError(f"{error}; it must be a server started with {launch}") from None
    return answer
