"""A fingerprint of the code that a run executes, so that results of another model are never taken for this one's."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from agentforge.artifacts import hash_json

PACKAGE = Path(__file__).parents[3]
HERE = Path(__file__).parent
MODEL = ("systems/cognate/modeling", "losses/halting.py", "losses/gates.py", "losses/linear_cross_entropy.py")
HERE_TOO = ("training.py", "measuring.py", "controls.py", "optimizers.py", "tasks")
OPTIMIZER = ("optim",)
"""Only what Muon or Grokfast train depends on it; AdamW alone is PyTorch's."""


@cache
def code_fingerprint(own_optimizer: bool) -> str:
    """Return a hash of the code of the model, its losses, the tasks and the training loop, and of our optimisers.

    Of code as Python reads it, without comments and docstrings: explaining a line better costs nobody half an hour.
    """
    outside = (*MODEL, *OPTIMIZER) if own_optimizer else MODEL
    places = [*(PACKAGE / name for name in outside), *(HERE / name for name in HERE_TOO)]
    files = sorted(file for place in places for file in ([place] if place.is_file() else place.rglob("*.py")))
    return hash_json({str(file.relative_to(PACKAGE)): bare(file.read_text(encoding="utf-8")) for file in files})


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
