"""Environments made on demand and kept for reuse: some take seconds to start."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from agentforge.environments.base import Environment, EnvironmentFailed
from agentforge.environments.registry import make

log = logging.getLogger(__name__)


class EnvironmentPool:
    """The environments of a recipe by name, as many of each as run at once. A context manager that closes them all.

    Args:
        options: the recipe's `environments`: name to options.
    """

    def __init__(self, options: Mapping[str, dict[str, Any]]) -> None:
        self.options = dict(options)
        self._free: dict[str, list[Environment]] = defaultdict(list)
        self._taken: list[Environment] = []

    def take(self, name: str) -> Environment:
        """Return a free environment, made if there is none.

        Raises:
            UserError: see `make`.
        """
        environment = self._free[name].pop() if self._free[name] else make(name, self.options[name])
        self._taken.append(environment)
        return environment

    def give_back(self, name: str, environment: Environment) -> None:
        """Return an environment to the pool, for the next episode."""
        self._taken.remove(environment)
        self._free[name].append(environment)

    def drop(self, environment: Environment) -> None:
        """Close an environment that has failed, and forget it."""
        self._taken.remove(environment)
        # What has failed may fail again when it is closed; that must not hide the error that the caller is handling.
        try:
            environment.close()
        except (EnvironmentFailed, OSError) as error:
            log.debug("closing a failed %s: %s", environment.id, error)

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *exception: object) -> None:
        # Some are still taken if an error ended the run in the middle of episodes: nobody knows what state they are in.
        while self._taken:
            self.drop(self._taken[-1])
        for environments in self._free.values():
            for environment in environments:
                environment.close()
        self._free.clear()
