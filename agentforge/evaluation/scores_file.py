"""scores.json, which every evaluation writes and everything that shows scores reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentforge.errors import UserError

SCORES = "scores.json"


def read_scores(path: Path) -> dict[str, Any]:
    """Return an evaluation's scores.json.

    Raises:
        UserError: there is none, or it is broken.
    """
    try:
        loaded: dict[str, Any] = json.loads((path / SCORES).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is not an evaluation: it has no {SCORES}") from None
    except ValueError as error:
        raise UserError(f"{path / SCORES} is broken ({error}); evaluate again with --replace") from None
    return loaded
