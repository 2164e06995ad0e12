"""Environments that are made when they are needed, and kept: some take seconds to start."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from agentforge.environments.base import Environment, EnvironmentFailed
from agentforge.environments.registry import make

log = logging.getLogger(__name__)


class EnvironmentPool:
    """The environments of a recipe by name, as many of each as play at once. A context manager; closes them all.

    Args:
        options: the recipe's `environments`: name to options.
    """

    def __init__(self, options: Mapping[str, dict[str, Any]]) -> None:
        self.options = dict(options)
        self._free: dict[str, list[Environment]] = defaultdict(list)
        self._taken: list[Environment] = []

    def take(self, name: str) -> Environment:
        """Return an environment that nobody plays in.

        Raises:
            UserError: see `make`.
        """
        environment = self._free[name].pop() if self._free[name] else make(name, self.options[name])
        self._taken.append(environment)
        return environment

    def give_back(self, name: str, environment: Environment) -> None:
        """Return one for the next episode."""
        self._taken.remove(environment)
        self._free[name].append(environment)

    def drop(self, environment: Environment) -> None:
        """Close one that has failed."""
        self._taken.remove(environment)
        try:
            environment.close()
        except (EnvironmentFailed, OSError) as error:
            log.debug("closing a failed %s: %s", environment.id, error)

    def __enter__(self) -> EnvironmentPool:
        return self

    def __exit__(self, *exception: object) -> None:
        while self._taken:
            self.drop(self._taken[-1])
        for environments in self._free.values():
            for environment in environments:
                environment.close()
        self._free.clear()
