"""Environments by id; a user's own is one class and one line of the recipe."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from agentforge.environments.base import Environment
from agentforge.errors import UserError, did_you_mean
from agentforge.references import resolve

# id to "module:class"; imported when it is made, because some need an extra.
ENVIRONMENTS: dict[str, str] = {
    "affine:sat": "agentforge.environments.sat.environment:Sat",
    "affine:abd": "agentforge.environments.programs.environment:Abduction",
    "affine:ded": "agentforge.environments.programs.environment:Deduction",
    "agentgym:babyai": "agentforge.environments.babyai.environment:BabyAI",
    "agentgym:textcraft": "agentforge.environments.textcraft.environment:TextCraft",
    "agentgym:sciworld": "agentforge.environments.sciworld.environment:SciWorld",
    "agentgym:alfworld": "agentforge.environments.alfworld.environment:ALFWorld",
    "agentgym:webshop": "agentforge.environments.agentgym.environment:WebShop",
    "shop": "agentforge.environments.shop.environment:Shop",
}


def make(environment_id: str, options: dict[str, Any] | None = None) -> Environment:
    """Make an environment.

    Args:
        environment_id: a key of `ENVIRONMENTS`, or any name if ``options`` has ``class: package.module:Class``.
        options: arguments of its constructor.

    Raises:
        UserError: the id, the class or an option is unknown, or an extra is missing (the sentence names it).
    """
    environment_class, arguments = _resolve(environment_id, options)
    try:
        return environment_class(**arguments)
    except TypeError as error:
        raise UserError(f"environments.{environment_id}: {error}") from error


def check_options(environments: Mapping[str, dict[str, Any] | None]) -> None:
    """Refuse options that cannot work, before anything runs and on a machine that need not be the one that runs it.

    So a class of the user's own is not imported, and nothing is made that needs a server, files or an extra.

    Args:
        environments: the recipe's section: name to options.

    Raises:
        UserError: see `make`.
    """
    for name, options in environments.items():
        if not (options or {}).get("class"):
            environment_class, _ = _resolve(name, options)
            if environment_class.self_contained:
                make(name, options).close()


def _resolve(environment_id: str, options: Mapping[str, Any] | None) -> tuple[type[Environment], dict[str, Any]]:
    """Return the class of an environment and its arguments, all of which it knows."""
    arguments = dict(options or {})
    target = arguments.pop("class", None) or ENVIRONMENTS.get(environment_id)
    if target is None:
        raise UserError(
            f"unknown environment '{environment_id}'{did_you_mean(environment_id, list(ENVIRONMENTS))}; "
            "one of your own is given as {class: package.module:Class}"
        )
    environment_class = load_class(target, f"environments.{environment_id}.class")
    known = inspect.signature(environment_class).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    if unknown := [] if takes_any else [name for name in arguments if name not in known]:
        near = did_you_mean(str(unknown[0]), list(known))
        raise UserError(
            f"environments.{environment_id} has no option '{unknown[0]}'{near}; it has: {', '.join(known) or 'none'}"
        )
    return environment_class, arguments


def load_class(target: str, key: str) -> type[Environment]:
    """Import ``package.module:Class``.

    Raises:
        UserError: it cannot be imported, or is no `Environment`.
    """
    if not isinstance(target, str) or target.startswith("."):
        raise UserError(f"{key}: {target!r} is not a class; write it as package.module:Class")
    found = resolve(target, key)
    if not (isinstance(found, type) and issubclass(found, Environment)):
        raise UserError(f"{key}: {target} is not a subclass of agentforge.environments.base.Environment")
    return found
