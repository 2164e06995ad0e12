"""How agentforge is installed: as a checkout, or as a package that holds the data which shipped recipes name."""

from __future__ import annotations

import glob
from pathlib import Path

FOLDER = "data"
"""What their paths begin with in a recipe."""
PACKAGE = Path(__file__).parent / "shipped"
CHECKOUT = Path(__file__).parents[1] / "data"


def gguf_setup() -> str:
    """Return the command that builds llama.cpp; an installed package has no Makefile."""
    return "make gguf-setup" if (CHECKOUT.parent / "Makefile").is_file() else "python -m agentforge.export.llama_cpp"


def shipped_root() -> Path:
    """Return the directory that stands for ``data`` where the working directory has no such file."""
    return PACKAGE if PACKAGE.is_dir() else CHECKOUT


def find_paths(pattern: str | Path) -> list[Path]:
    """Return the files and directories that a path or a glob names, sorted.

    Relative to the working directory. What is not there and begins with ``data/`` is looked for among the shipped data,
    so that shipped recipes run in any directory.
    """
    found = _matches(Path(pattern).expanduser())
    parts = Path(pattern).parts
    if found or len(parts) < 2 or parts[0] != FOLDER or ".." in parts:
        return found
    return _matches(shipped_root().joinpath(*parts[1:]), root=shipped_root())


def _matches(path: Path, root: Path | None = None) -> list[Path]:
    if path.exists():
        return [path]
    if root is None:
        return sorted(map(Path, glob.glob(str(path), recursive=True)))
    # The package may lie in a directory whose name has brackets: only what the recipe wrote is a pattern.
    inside = glob.glob(str(path.relative_to(root)), root_dir=root, recursive=True)
    return sorted(root / name for name in inside)
