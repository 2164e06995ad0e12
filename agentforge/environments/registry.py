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

# Environments of other libraries: ``family:NAME`` is made with ``name="NAME"``, what the library calls it.
FAMILIES: dict[str, str] = {
    "reasoning-gym": "agentforge.environments.reasoning_gym.environment:ReasoningGym",
    "gymnasium": "agentforge.environments.gymnasium.environment:Gymnasium",
    "openenv": "agentforge.environments.openenv.environment:OpenEnv",
    "verifiers": "agentforge.environments.verifiers.environment:Verifiers",
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
        if (target := (options or {}).get("class")) is not None:
            _check_form(target, f"environments.{name}.class")
        else:
            environment_class, _ = _resolve(name, options)
            if environment_class.self_contained:
                make(name, options).close()


def is_known(environment_id: str) -> bool:
    """Tell whether an id needs no ``class``: it is one of `ENVIRONMENTS`, or a name in one of `FAMILIES`."""
    family, _, name = environment_id.partition(":")
    return environment_id in ENVIRONMENTS or (family in FAMILIES and bool(name))


def near(environment_id: str) -> str:
    """Return ``"; did you mean 'affine:sat'?"`` for the nearest id, else ``""``."""
    _, colon, name = environment_id.partition(":")
    if found := did_you_mean(environment_id, list(ENVIRONMENTS)):
        return found
    return did_you_mean(environment_id, [f"{each}{colon}{name}" for each in FAMILIES])


def _resolve(environment_id: str, options: Mapping[str, Any] | None) -> tuple[type[Environment], dict[str, Any]]:
    """Return the class of an environment and its arguments, all of which it knows."""
    arguments = dict(options or {})
    target = arguments.pop("class", None) or ENVIRONMENTS.get(environment_id)
    family, _, name = environment_id.partition(":")
    if target is None and family in FAMILIES:
        if not name:
            raise UserError(f"environment '{environment_id}' needs a name behind a colon, as in {family}:NAME")
        target = FAMILIES[family]
        arguments.setdefault("name", name)
    if target is None:
        raise UserError(
            f"unknown environment '{environment_id}'{near(environment_id)}; "
            "one of your own is given as {class: package.module:Class}"
        )
    environment_class = load_class(target, f"environments.{environment_id}.class")
    known = inspect.signature(environment_class).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    if unknown := [] if takes_any else [name for name in arguments if name not in known]:
        hint = did_you_mean(str(unknown[0]), list(known))
        raise UserError(
            f"environments.{environment_id} has no option '{unknown[0]}'{hint}; it has: {', '.join(known) or 'none'}"
        )
    return environment_class, arguments


def _check_form(target: Any, key: str) -> None:
    if not isinstance(target, str) or target.startswith(".") or ":" not in target:
        raise UserError(f"{key}: {target!r} is not a class; write it as package.module:Class")


def load_class(target: str, key: str) -> type[Environment]:
    """Import ``package.module:Class``.

    Raises:
        UserError: it cannot be imported, or is no `Environment`.
    """
    _check_form(target, key)
    found = resolve(target, key)
    if not (isinstance(found, type) and issubclass(found, Environment)):
        raise UserError(f"{key}: {target} is not a subclass of agentforge.environments.base.Environment")
    return found
