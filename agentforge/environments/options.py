"""Options of environments as a recipe gives them: checked, with a sentence that names the option."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any, TypeVar

from agentforge.errors import UserError, did_you_mean

Choice = TypeVar("Choice", bound=str)
_LARGEST = sys.float_info.max


def as_range(value: Any, key: str, least: int, most: int | None = None) -> tuple[int, int]:
    """Return a whole number or a list of two as ``(least, most)``.

    Raises:
        UserError: it is neither, or out of order, or below ``least`` or above ``most``.
    """
    ends = value if isinstance(value, (list, tuple)) else [value, value]
    if len(ends) != 2 or not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        raise UserError(f"{key} must be a whole number or [least, most], not {value!r}")
    if not least <= ends[0] <= ends[1] or (most is not None and ends[1] > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most:,}"
        raise UserError(f"{key} is {value!r}; it must be {bounds}, the smaller number first")
    return ends[0], ends[1]


def as_count(value: Any, key: str, least: int = 1, most: int | None = None) -> int:
    """Return a whole number from ``least`` to ``most``.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most:,}"
        raise UserError(f"{key} must be a whole number, {bounds}, not {value!r}")
    return value


def as_number(value: Any, key: str, least: float = 0, most: float = float("inf"), over: bool = False) -> float:
    """Return a finite number from ``least`` (not counting it, if ``over``) to ``most``.

    Raises:
        UserError: it is none.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if not number or not least <= value <= most or (over and value == least):
        lower = f"above {least}" if over else f"from {least}"
        bounds = f"{lower} to {most:g}" if most != float("inf") else lower if over else f"{least} or more"
        raise UserError(f"{key} must be a number {bounds}, not {value!r}")
    return float(value)


def as_flag(value: Any, key: str) -> bool:
    """Return true or false. Nothing else is taken for one of them: ``"false"`` is a text, and a text is true in Python.

    Raises:
        UserError: it is neither.
    """
    if not isinstance(value, bool):
        raise UserError(f"{key} must be true or false, not {value!r}")
    return value


def as_names(value: Any, key: str, known: Collection[str]) -> list[str]:
    """Return a list of names out of ``known``.

    Raises:
        UserError: it is none, or empty, or has another name.
    """
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{key} must be a list of names, not {value!r}")
    if not value:
        raise UserError(f"{key} is empty; leave it out for all of them")
    if unknown := [name for name in value if name not in known]:
        raise UserError(f"{key}: there is no '{unknown[0]}'{did_you_mean(unknown[0], list(known))}")
    return list(value)


def as_choice(value: Any, key: str, known: tuple[Choice, ...]) -> Choice:
    """Return one of ``known``.

    Raises:
        UserError: it is another.
    """
    if value not in known:
        raise UserError(f"{key} is {' or '.join(known)}, not {value!r}{did_you_mean(str(value), known)}")
    return known[known.index(value)]
