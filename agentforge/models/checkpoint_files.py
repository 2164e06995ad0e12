"""Small files beside the weights, and the room they all need."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from agentforge.errors import CheckRefused

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def copy_present(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy those of ``names`` that ``source`` has."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def require_space(directory: Path, needed: int, what: str) -> None:
    """Refuse work that will not fit on the disk, before it is begun.

    Args:
        directory: where it will be written (an ancestor if it does not exist yet).
        needed: bytes.
        what: named in the message.
    """
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise CheckRefused(
            f"{what} needs {needed / 1e9:.1f} GB, {directory.resolve()} has {free / 1e9:.1f} GB free; "
            "free some, or set output_dir to another disk"
        )
