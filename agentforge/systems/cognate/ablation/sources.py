"""A fingerprint of the code that a run executes, so that results of another model are never taken for this one's."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from agentforge.artifacts import hash_json

PACKAGE = Path(__file__).parents[3]
HERE = "agentforge.systems.cognate.ablation"
COUNTS = ("agentforge.systems.cognate.", "agentforge.models.", "agentforge.losses.", "agentforge.optim.")
"""Where the code lies that decides a result. Errors, artefacts and tables do not."""
OPTIMIZER = "agentforge.optim."
"""Only what Muon or Grokfast train depends on it; AdamW alone is PyTorch's."""


@cache
def code_fingerprint(own_optimizer: bool) -> str:
    """Return a hash of the tasks and of all modules that a training imports, near or far.

    Of code as Python reads it, without comments and docstrings: explaining a line better costs nobody half an hour.

    Args:
        own_optimizer: with our optimisers; without, a change of them leaves the hash as it is.
    """
    found: dict[str, str] = {}
    # No training imports its task: an arm brings it.
    waiting = [f"{HERE}.training", *(f"{HERE}.tasks.{file.stem}" for file in Path(__file__).parent.glob("tasks/*.py"))]
    while waiting:
        module = waiting.pop()
        if module in found or (file := file_of(module)) is None:
            continue
        source = file.read_text(encoding="utf-8")
        found[module] = bare(source)
        waiting += [name for name in imported(source) if own_optimizer or not name.startswith(OPTIMIZER)]
    return hash_json(found)


def imported(source: str) -> Iterator[str]:
    """Yield the modules of ours that a source imports, wherever in it, and that decide a result."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and f"{node.module}.".startswith(COUNTS):
            yield node.module


def file_of(module: str) -> Path | None:
    """Return a module's file; None: it is a package, whose modules are imported by their own names."""
    file = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return file if file.is_file() else None


def bare(source: str) -> str:
    """Return a module's syntax tree as text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [one for one in node.body if not _is_text(one)]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    # Also the text below a constant, which documents it.
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
