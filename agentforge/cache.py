"""The one directory outside a project that agentforge writes to."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return where downloads' lock files, generated text and llama.cpp lie: they are made once for all projects.

    ``AGENTFORGE_CACHE`` if it is set, else ``agentforge`` below ``XDG_CACHE_HOME`` or ``~/.cache``. What the Hub's
    client downloads lies in its own cache (``HF_HOME``).
    """
    if given := os.environ.get("AGENTFORGE_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentforge"
