"""What surgery can do to a Cognate: one trunk becomes a specialisation. Sizes and names; the work is in `surgery/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentforge.errors import UserError
from agentforge.recipe.section import keys_of
from agentforge.systems.base import Operation
from agentforge.systems.cognate.recipe_sections import Branch, CognateSurgery

THRESHOLDS = {"reasoning": 0.95, "memory": 0.90, "speed": 0.50}
"""Cumulative halting probability at which each stops. The specification gives speed 0.99, with which it would think
longest of all."""


@dataclass(frozen=True)
class Wanted:
    """What a branch shall have; None: what the trunk has.

    Attributes:
        name: of the specialisation.
        halve: cut the memory to a half, whichever way costs less; then neither heads nor layers are given.
    """

    name: str
    exit_threshold: float | None = None
    memory_heads: int | None = None
    memory_layers: list[int] | None = None
    halve: bool = False


def wanted(chosen: Branch, config: Mapping[str, Any]) -> Wanted:
    """Return what a recipe's `surgery.branch` asks for.

    Args:
        chosen: the section.
        config: of the trunk; what its config.json leaves out has the class's default.
    """
    named = chosen.specialisation
    heads, halve = chosen.memory_heads, bool(chosen.halve_memory)
    free = heads is None and chosen.memory_layers is None and chosen.halve_memory is None
    # A size of one's own takes the place of the named one's, and never adds to it.
    if free and named == "memory":
        heads = 2 * int(config.get("memory_heads", 2))
    if free and named == "speed":
        halve = True
    threshold = chosen.exit_threshold
    if threshold is None and named is not None:
        threshold = THRESHOLDS[named]
    return Wanted(named or str(chosen.name), threshold, heads, chosen.memory_layers, halve)


def check(section: Any) -> None:
    """Refuse a `surgery` section that asks for no branch, or for two things at once.

    Raises:
        UserError: the sentence says what is missing.
    """
    chosen = keys_of(section, CognateSurgery).branch
    if chosen is None:
        raise UserError("branch: set surgery.branch.specialisation to reasoning, memory or speed, or name one")
    if chosen.specialisation is None and chosen.name is None:
        raise UserError("surgery.branch: a specialisation of your own needs surgery.branch.name")
    if chosen.specialisation is not None and chosen.name is not None:
        raise UserError(
            f"surgery.branch: {chosen.specialisation} has its name already; leave out specialisation to make "
            f"'{chosen.name}'"
        )
    if chosen.halve_memory and (chosen.memory_heads is not None or chosen.memory_layers is not None):
        raise UserError("surgery.branch.halve_memory chooses heads or layers itself; leave out both, or leave it out")


def measures(section: Any) -> bool:
    """Tell whether an operation reads data: only to see what a smaller memory costs."""
    chosen = keys_of(section, CognateSurgery).branch
    if chosen is None:
        return False
    sizes = wanted(chosen, {})
    return sizes.halve or sizes.memory_layers is not None or chosen.memory_heads is not None


def suffix(section: Any) -> str:
    """Return the end of the artefact's name: ``reasoning``, ``branch-mine``."""
    chosen = keys_of(section, CognateSurgery).branch
    if chosen is None:
        return "branch"
    return chosen.specialisation or f"branch-{chosen.name}"


def branched(config: Mapping[str, Any], section: Any) -> dict[str, Any]:
    """Return the config.json of a branch, for `plan`.

    Whether half of a memory's heads or of its layers go, only a measurement says; `plan` takes the layers, the first
    half of which stay.
    """
    chosen = keys_of(section, CognateSurgery).branch
    assert chosen is not None
    sizes, changed = wanted(chosen, config), dict(config)
    if sizes.exit_threshold is not None:
        changed["exit_threshold"] = sizes.exit_threshold
    if sizes.memory_heads is not None:
        changed["memory_heads"] = sizes.memory_heads
    if sizes.memory_layers is not None:
        changed["memory_layers"] = sizes.memory_layers
    if sizes.halve:
        layers = config.get("memory_layers")
        if layers is None:
            layers = range(config.get("num_prelude_layers", 6) + config.get("num_core_layers", 2))
        changed["memory_layers"] = list(layers)[: (len(layers) + 1) // 2]
    return changed


OPERATIONS: Mapping[str, Operation] = {
    "branch": Operation(
        run="agentforge.systems.cognate.surgery.branch:run_branch",
        suffix=suffix,
        suffixes=r"reasoning|memory|speed|branch-[a-z][a-z0-9_]*",
        reads="eval",
        measures=measures,
        check=check,
        config="agentforge.systems.cognate.operations:branched",
    )
}
