"""The one environment that a client holds on a server: opened when it is needed, and given back when it may be broken.

A server has room for few environments (`serve-env` for 64) and frees one that nobody uses only after a long while (half
an hour). A client that just forgets a number after a failure fills the server with environments that nobody plays in,
and soon healthy episodes find no room. So each failure ends with a call of /close.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from agentforge.environments.base import EnvironmentFailed

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class Held:
    """The number of an environment on a server, None while there is none.

    Args:
        name: what errors call the server.
        create: asks for a new one.
        close: gives one back; may raise `EnvironmentFailed`.
    """

    def __init__(self, name: str, create: Callable[[], int], close: Callable[[int], object]) -> None:
        self._name, self._create, self._close = name, create, close
        self.number: int | None = None

    def open(self) -> int:
        """Return the number, that of a new environment if the last was given back."""
        if self.number is None:
            self.number = self._create()
        return self.number

    def begin(self, ask: Callable[[int], Answer]) -> Answer:
        """Ask for the first observation of an episode.

        Raises:
            EnvironmentFailed: as `go_on`.
        """
        self.open()
        return self.go_on(ask)

    def go_on(self, ask: Callable[[int], Answer]) -> Answer:
        """Ask for something within an episode.

        Raises:
            EnvironmentFailed: the episode was lost before, or is now. Nobody knows in which state the environment is
                then (the action may have been taken), so it is not used again.
        """
        if self.number is None:
            raise EnvironmentFailed(f"{self._name} has lost this episode; call reset to begin another")
        try:
            return ask(self.number)
        except EnvironmentFailed:
            self.give_back()
            raise

    def give_back(self) -> None:
        """Close the environment on the server. If that fails, the server has to notice by itself that it is idle."""
        number, self.number = self.number, None
        if number is None:
            return
        try:
            self._close(number)
        except EnvironmentFailed as error:  # often the server is gone; what failed before is what is told
            log.debug("environment %d is not closed: %s", number, error)
