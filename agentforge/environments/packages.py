"""Packages that an environment stands on and that are no part of the default installation."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import ClassVar

from agentforge.environments.base import Environment
from agentforge.errors import UserError, first_line


def needed(module: str, environment: str, extra: str) -> ModuleType:
    """Import a module of an extra.

    Args:
        module: its name.
        environment: the id for which it is needed.
        extra: of this distribution.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{environment} needs the package {module.partition('.')[0]} ({first_line(error)}): "
            f"pip install agentforge-train[{extra}]"
        ) from error


class Named(Environment):
    """An environment of another library: one class of ours for many of theirs.

    Its id is ``family:name``, so that each of them has reserved tasks of its own.

    Args:
        name: what the library calls it.
    """

    family: ClassVar[str]

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise UserError(f"environments.{self.family}.name must be the name of an environment, not {name!r}")
        self.name = name
        setattr(self, "id", f"{self.family}:{name}")  # noqa: B010  of this object: its class knows many
        self.key = f"environments.{self.id}"
