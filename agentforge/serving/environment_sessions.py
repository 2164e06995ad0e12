"""The environments that a server's clients have in use."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable

from agentforge.environments.base import Environment, Step

log = logging.getLogger(__name__)


class Refused(Exception):
    """What a client has asked for is not possible; becomes ``{"error": ...}`` with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Session:
    """One environment and the episode in it; `lock` is held during a call, so that calls of one client do not mix."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.lock = threading.Lock()
        self.used = time.monotonic()
        self.observation: str | None = None
        self.over = False
        self.steps = 0
        self.name = ""

    def begin(self, seed: int, task_id: int) -> str:
        self.observation = self.environment.reset(seed, task_id)
        self.over, self.steps = False, 0
        return self.observation

    def act(self, turn: str) -> Step:
        if self.observation is None:
            raise Refused(409, "no episode has begun: /reset comes first")
        if self.over:
            raise Refused(409, "the episode is over: /reset begins the next")
        step = self.environment.step(turn)
        self.observation, self.steps = step.observation, self.steps + 1
        self.over = step.terminated or step.truncated
        return step


class Sessions:
    """The environments that are in use, by numbers that nobody guesses by accident.

    Args:
        build: makes an environment.
        most: at one time.
        idle_seconds: after which an environment that nobody uses is closed.
    """

    def __init__(self, build: Callable[[], Environment], most: int, idle_seconds: float) -> None:
        self.build, self.most, self.idle_seconds = build, most, idle_seconds
        self._open: dict[int | str, Session] = {}
        self._lock = threading.Lock()

    def create(self, key: int | str | None = None) -> int | str:
        """Make an environment; under a random number if no key is given.

        Numbers are random so that a client which outlives a restart of the server meets nobody else's episode.

        Raises:
            Refused: there are too many.
        """
        self.expire()
        with self._lock:
            if key is not None and key in self._open:
                return key
            if len(self._open) >= self.most:
                raise Refused(429, f"{len(self._open)} environments are in use, which is the most; close one first")
            key = secrets.randbelow(1 << 31) if key is None else key
            self._open[key] = Session(self.build())
        return key

    def use(self, key: int | str) -> Session:
        """Return an open session.

        Raises:
            Refused: there is none of that number, or not any more.
        """
        session = self._open.get(key)
        if session is None:
            raise Refused(404, f"there is no environment {key}: it was never made, or closed after being idle")
        session.used = time.monotonic()
        return session

    def close(self, key: int | str) -> bool:
        with self._lock:
            session = self._open.pop(key, None)
        if session is not None:
            with session.lock:
                session.environment.close()
        return session is not None

    def expire(self) -> None:
        """Close what has been idle for too long."""
        oldest = time.monotonic() - self.idle_seconds
        for key in [key for key, session in list(self._open.items()) if session.used < oldest]:
            log.info("environment %s was idle and is closed", key)
            self.close(key)

    def close_all(self) -> None:
        for key in list(self._open):
            self.close(key)

    def __len__(self) -> int:
        return len(self._open)
