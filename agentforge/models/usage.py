"""How a checkpoint is opened, where transformers alone does not open it: said beside it and in its model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentforge.systems.registry import system_of

README = "README.md"


def usage_of(config: Mapping[str, Any], path: str, *, adapter: bool = False) -> str | None:
    """Return what the model's system says about opening it, as Markdown; None: any loader of transformers does.

    Args:
        config: fields of the model's config.json; of an adapter, its base's.
        path: a directory or a Hub id.
        adapter: it is a PEFT adapter.
    """
    system = system_of(config)
    return None if system is None else system.usage(config, path, adapter)


def write_usage(directory: Path, config: Mapping[str, Any]) -> None:
    """Write a README.md with `usage_of` beside a checkpoint that needs one and has none."""
    # not the directory's own name: a stage writes to a temporary one and renames it
    text = usage_of(config, "path/to/this/directory")
    if text is not None and not (directory / README).exists():
        (directory / README).write_text(f"# How to open this model\n\n{text}\n", encoding="utf-8")
