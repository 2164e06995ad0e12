"""Spaces of gymnasium as text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from agentforge.errors import UserError

MOST_NUMBERS = 64
"""Of an observation; more are an image or a world that no model reads as numbers."""
_COLOURED = re.compile(r"\x1b\[[0-9;]*m(.*?)\x1b\[0m", re.DOTALL)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def action_names(space: Any, names: Any, key: str) -> list[str]:
    """Return the actions of a discrete space by name; none where an action is any text.

    Raises:
        UserError: the space is neither discrete nor text, or there are too many or too few names.
    """
    from gymnasium.spaces import Discrete, Text

    if names is not None and not (isinstance(names, list) and names and all(isinstance(n, str) and n for n in names)):
        raise UserError(f"{key}.actions must be a list of names, not {names!r}")
    if isinstance(space, Text):
        if names is not None:
            raise UserError(f"{key}.actions: an action is any text here; leave it out")
        return []
    if not isinstance(space, Discrete):
        raise UserError(f"{key} takes actions from {space}; only Discrete and Text can be played in text")
    if names is None:
        return [str(int(space.start) + number) for number in range(int(space.n))]
    if len(names) != int(space.n) or len(set(names)) != len(names):
        raise UserError(f"{key}.actions must name the {int(space.n)} actions, each differently, not {names!r}")
    return list(names)


def is_shown_in_text(space: Any) -> bool:
    """Tell whether an observation can be written: text, or at most `MOST_NUMBERS` numbers."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return all(is_shown_in_text(part) for part in space.values())
    if isinstance(space, spaces.Tuple):
        return all(is_shown_in_text(part) for part in space)
    if isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete):
        return int(np.prod(space.shape)) <= MOST_NUMBERS
    return isinstance(space, spaces.Text | spaces.Discrete)


def written(seen: Any) -> str:
    """Return an observation as text: parts with names on a line each, numbers with four digits."""
    if isinstance(seen, dict):
        return "\n".join(f"{name}: {written(part)}" for name, part in seen.items())
    if isinstance(seen, tuple | list | np.ndarray) and np.ndim(seen) > 0:
        return "[" + ", ".join(written(part) for part in seen) + "]"
    if isinstance(seen, float | np.floating):
        return f"{float(seen):.4g}"
    return str(seen)


def uncoloured(drawn: str) -> str:
    """Return what is drawn for a terminal without its escapes; what is coloured stands in brackets."""
    return _ESCAPE.sub("", _COLOURED.sub(r"[\1]", drawn)).strip("\n")
