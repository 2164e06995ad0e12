"""Finding systems: the folders beside this file, and what other distributions declare as ``agentforge.systems``.

A distribution adds one by an entry point; no file here is edited:

    [project.entry-points."agentforge.systems"]
    mymodel = "mypackage.system:SYSTEM"
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from pydantic import create_model

from agentforge import systems as own
from agentforge.errors import UserError
from agentforge.recipe.optimizers import OPTIMIZERS
from agentforge.recipe.section import Section, is_default
from agentforge.references import resolve
from agentforge.systems.base import Operation, Place, System

GROUP = "agentforge.systems"

AnySection = TypeVar("AnySection", bound=Section)


@cache
def all_systems() -> tuple[System, ...]:
    """Return every system, our own first.

    Raises:
        UserError: one cannot be loaded, or two claim the same name, key or operation.
    """
    found = [*_own(), *_installed()]
    for kind in ("name", "optimizers", "tokenizers", "surgery", "evaluations"):
        _refuse_twice(found, kind)
    return tuple(found)


def _own() -> Iterator[System]:
    for module in pkgutil.iter_modules(own.__path__):
        if module.ispkg:
            yield importlib.import_module(f"{own.__name__}.{module.name}").SYSTEM


def _installed() -> Iterator[System]:
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        where = f"the system '{entry.name}' ({entry.value}) of {entry.dist.name if entry.dist else 'a distribution'}"
        try:
            found = entry.load()
        except Exception as error:  # somebody else's code: whatever is wrong with it must not look like our bug
            said = f"{type(error).__name__}: {error}"
            raise UserError(f"{where} cannot be loaded ({said}); repair it or uninstall it") from error
        if not isinstance(found, System):
            raise UserError(f"{where} is not an agentforge.systems.base.System; correct its entry point")
        yield found


def _refuse_twice(found: list[System], kind: str) -> None:
    owners = dict.fromkeys(OPTIMIZERS, "agentforge") if kind == "optimizers" else {}
    for system in found:
        names = [system.name] if kind == "name" else list(getattr(system, kind))
        for name in names:
            if name in owners:
                two = f"'{owners[name]}' and '{system.name}'"
                raise UserError(f"the systems {two} both bring {kind} '{name}'; uninstall one of them")
            owners[name] = system.name


def system_of(config: Mapping[str, Any]) -> System | None:
    """Return the system that a config.json belongs to; None: a model of plain transformers."""
    return next((system for system in all_systems() if system.opens(config)), None)


def prepare_for(config: Mapping[str, Any]) -> System | None:
    """Return the system of a config.json, its classes registered with transformers."""
    if (system := system_of(config)) is not None and system.auto_classes is not None:
        importlib.import_module(system.auto_classes)
    return system


def operations() -> dict[str, Operation]:
    """Return every operation of `surgery` by name."""
    return {name: operation for system in all_systems() for name, operation in system.surgery.items()}


def named(kind: str, name: str) -> Any | None:
    """Return what a system brings under a name (of `optimizers`, `tokenizers` or `evaluations`), imported; or None."""
    for system in all_systems():
        if name in getattr(system, kind):
            return resolve(getattr(system, kind)[name])
    return None


def names_of(kind: str) -> list[str]:
    """Return all names that systems bring of a kind."""
    return [name for system in all_systems() for name in getattr(system, kind)]


def system_keys(place: Place) -> list[str]:
    """Return the keys that systems add to a section of the recipe."""
    return [key for system in all_systems() if place in system.sections for key in system.sections[place].model_fields]


def used_keys(place: Place, section: Section) -> list[str]:
    """Return the keys of systems that a recipe's section sets."""
    return [key for key in system_keys(place) if not is_default(section, key)]


def without_unused_keys(place: Place, section: Section) -> dict[str, Any]:
    """Return a section as a manifest has it: without systems' keys that the recipe leaves alone.

    So no artefact becomes another one's because a system was installed.
    """
    return section.model_dump(exclude=set(system_keys(place)) - set(used_keys(place, section)))


def concerned(config: Mapping[str, Any], sections: Mapping[Place, Section]) -> list[System]:
    """Return the systems that a model or a recipe has to do with; the others are not even imported.

    Args:
        config: of the model, as in its config.json.
        sections: parts of the recipe: a system whose keys are used there is concerned, whatever the model is.
    """

    def uses(system: System) -> bool:
        return any(
            not is_default(section, key)
            for place, section in sections.items()
            if place in system.sections
            for key in system.sections[place].model_fields
        )

    return [system for system in all_systems() if system.opens(config) or uses(system)]


def answer(hook: str, systems: Sequence[System], *arguments: Any) -> Any | None:
    """Ask the systems that have a hook, and return the only answer that is not None; None: there is none.

    Raises:
        UserError: two systems answer.
    """
    given: dict[str, Any] = {}
    for system in systems:
        reference = getattr(system, hook)
        if reference is not None and (said := resolve(reference)(*arguments)) is not None:
            given[system.name] = said
    if len(given) > 1:
        raise UserError(f"the systems {' and '.join(given)} both decide on {hook}; leave out the keys of one of them")
    return next(iter(given.values()), None)


def with_system_keys(place: Place) -> Callable[[type[AnySection]], type[AnySection]]:
    """Return a decorator that gives a section of the recipe the keys that systems add to it.

    The result is a subclass of each system's own class too, so that ``isinstance(recipe.train, MyTrain)`` holds and the
    system's code reads its keys with their types.

    Raises:
        UserError: two of them have the same key.
    """

    def extend(section: type[AnySection]) -> type[AnySection]:
        added = [(system, system.sections[place]) for system in all_systems() if place in system.sections]
        owners = dict.fromkeys(section.model_fields, "the recipe itself")
        for system, keys in added:
            for key in keys.model_fields:
                if key in owners:
                    raise UserError(f"the system '{system.name}' adds {place}.{key}, which {owners[key]} already has")
                owners[key] = f"the system '{system.name}'"
        if not added:
            return section
        bases: Any = (*(keys for _, keys in added), section)
        return create_model(section.__name__, __base__=bases, __doc__=section.__doc__, __module__=section.__module__)

    return extend
