"""The environments that a server's clients have in use.

Calls come from many threads at once. Two kinds of locks keep them apart, and no thread waits for one while it holds the
other:

* the pool's lock guards the table of numbers. It is held for a look or a change, never while an environment works;
* each session's lock is held during a call, since an environment plays one move at a time. So a long move of one
  client makes nobody wait but that client itself.

Between finding a session and getting its lock another thread may close it. So a session says that it is closed, and
`Sessions.using` looks again when it has the lock.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

from agentforge.environments.base import Environment, Step

log = logging.getLogger(__name__)


class Refused(Exception):
    """What a client has asked for is not possible; becomes ``{"error": ...}`` with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EnvironmentSession:
    """One environment and the episode in it.

    Attributes:
        lock: held during a call, see above.
        used: when the last call began or ended, in `time.monotonic` seconds.
        observation: the last one; None: no episode has begun.
        over: the episode is.
        steps: of this episode.
        closed: the environment is not to be used any more.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.lock = threading.Lock()
        self.used = time.monotonic()
        self.observation: str | None = None
        self.over = False
        self.steps = 0
        self.closed = False

    def begin(self, seed: int, task_id: int) -> str:
        """Begin an episode; returns the first observation."""
        self.observation = None  # if `reset` fails, there is none to go on with
        self.observation = self.environment.reset(seed, task_id)
        self.over, self.steps = False, 0
        return self.observation

    def act(self, turn: str) -> Step:
        """Take a turn of the model."""
        self._under_way()
        step = self.environment.step(turn)
        self.observation, self.steps = step.observation, self.steps + 1
        self.over = step.terminated or step.truncated
        return step

    def expert(self) -> str | None:
        """Return the turn that an expert would write now."""
        self._under_way()
        return self.environment.expert()

    def baseline(self, name: str, seed: int) -> str:
        """Return the turn of a trivial strategy."""
        self._under_way()
        return self.environment.baseline(name, Random(seed))

    def _under_way(self) -> None:
        if self.observation is None:
            raise Refused(409, "no episode has begun; call /reset first")
        if self.over:
            raise Refused(409, "the episode is over; call /reset to begin the next")


class Sessions:
    """The environments that are in use, by numbers that nobody guesses by accident.

    Args:
        build: makes an environment.
        most: at one time.
        idle_seconds: after which an environment that nobody uses is closed.
    """

    def __init__(self, build: Callable[[], Environment], most: int, idle_seconds: float) -> None:
        self.build, self.most, self.idle_seconds = build, most, idle_seconds
        self._open: dict[int | str, EnvironmentSession] = {}
        self._building = 0  # places that are taken already, by environments that are still being made
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
            if (taken := len(self._open) + self._building) >= self.most:
                raise Refused(429, f"{taken} environments are in use, which is the limit; close one first")
            self._building += 1
        try:
            session = EnvironmentSession(self.build())  # may take seconds, so not under the lock
        except BaseException:
            with self._lock:
                self._building -= 1
            raise
        with self._lock:
            self._building -= 1
            while key is None or (isinstance(key, int) and key in self._open):
                key = secrets.randbelow(1 << 31)
            kept = self._open.setdefault(key, session)
        if kept is not session:  # two calls asked for the same name at the same time
            session.environment.close()
        return key

    @contextmanager
    def using(self, key: int | str) -> Iterator[EnvironmentSession]:
        """Have an open session for oneself.

        Raises:
            Refused: there is none of that number, or not any more.
        """
        session = self._open.get(key)
        if session is not None:
            with session.lock:
                if not session.closed:
                    session.used = time.monotonic()
                    try:
                        yield session
                    finally:
                        session.used = time.monotonic()  # a long call was no idleness
                    return
        raise Refused(404, f"there is no environment {key}: it was never made, or closed after being idle")

    def close(self, key: int | str) -> bool:
        """Close an environment, after its last call; tells whether there was one."""
        with self._lock:
            session = self._open.pop(key, None)
        if session is None:
            return False
        with session.lock:
            session.closed = True
            session.environment.close()
        return True

    def expire(self) -> None:
        """Close what has been idle for too long."""
        oldest = time.monotonic() - self.idle_seconds
        for key, session in list(self._open.items()):
            if session.used < oldest and not session.lock.locked():
                log.info("environment %s was idle and has been closed", key)
                self._close_quietly(key)

    def close_all(self) -> None:
        """Close every environment."""
        for key in list(self._open):
            self._close_quietly(key)

    def _close_quietly(self, key: int | str) -> None:
        """Close one of many: that it fails is nothing to the others, nor to the client that asks for a new one."""
        try:
            self.close(key)
        except Exception:
            log.exception("environment %s could not be closed", key)

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, key: int | str) -> bool:
        return key in self._open
