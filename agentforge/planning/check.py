"""One line of `agentforge doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """Something that a machine has or lacks.

    Attributes:
        state: ``missing`` stops the recipe, ``warn`` does not.
        mend: the command that mends it.
    """

    name: str
    state: Literal["ok", "warn", "missing"]
    detail: str
    mend: str = ""
