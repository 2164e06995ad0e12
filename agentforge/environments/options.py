"""Options of environments as a recipe gives them: checked, with a sentence that names the option."""

from __future__ import annotations

from typing import Any, TypeVar

from agentforge.errors import UserError, did_you_mean

Choice = TypeVar("Choice", bound=str)


def as_range(value: Any, key: str, least: int) -> tuple[int, int]:
    """Return a whole number or a list of two as ``(least, most)``.

    Raises:
        UserError: it is neither, or out of order, or below ``least``.
    """
    ends = value if isinstance(value, (list, tuple)) else [value, value]
    if len(ends) != 2 or not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        raise UserError(f"{key} is a whole number or [least, most], not {value!r}")
    if not least <= ends[0] <= ends[1]:
        raise UserError(f"{key} is {value!r}; it must be {least} or more, the smaller number first")
    return ends[0], ends[1]


def as_count(value: Any, key: str, least: int = 1) -> int:
    """Return a whole number of at least ``least``.

    Raises:
        UserError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key} is a whole number, {least} or more, not {value!r}")
    return value


def as_number(value: Any, key: str, least: float = 0, most: float = float("inf"), over: bool = False) -> float:
    """Return a number from ``least`` (not counting it, if ``over``) to ``most``.

    Raises:
        UserError: it is none.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= most or (over and value == least):
        bounds = f"above {least}" if over else f"{least} or more" if most == float("inf") else f"from {least} to {most}"
        raise UserError(f"{key} is a number {bounds}, not {value!r}")
    return float(value)


def as_choice(value: Any, key: str, known: tuple[Choice, ...]) -> Choice:
    """Return one of ``known``.

    Raises:
        UserError: it is another.
    """
    if value not in known:
        raise UserError(f"{key} is {' or '.join(known)}, not {value!r}{did_you_mean(str(value), known)}")
    return known[known.index(value)]
