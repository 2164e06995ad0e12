"""Whether a directory can be a base, told without opening any weights."""

from __future__ import annotations

from pathlib import Path

from agentforge.errors import UserError


def refuse_other_directory(path: str) -> None:
    """Refuse a directory that holds no model; what is no directory is left to whoever opens it.

    Raises:
        UserError: it is an adapter, or has no config.json.
    """
    directory = Path(path)
    if not directory.is_dir() or (directory / "config.json").is_file():
        return
    if (directory / "adapter_config.json").is_file():
        raise UserError(
            f"model.path {path} is an adapter, not a model: run `agentforge merge` on the recipe that trained it, "
            "and name the -merged directory"
        )
    raise UserError(f"model.path {path} has no config.json, so it is not a model")
