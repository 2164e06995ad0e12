"""Text that every CPython brings: the standard library's docstrings and pydoc's topics (PSF licence), as documents.

The sources are parsed, not imported: importing all modules would open windows, start threads and print.
"""

from __future__ import annotations

import ast
import inspect
import json
import platform
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from agentforge.artifacts import atomic_file
from agentforge.cache import cache_directory
from agentforge.data.sources import drills

SKIPPED_DIRECTORIES = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "turtledemo",
}
SHORTEST_DOCSTRING = 40
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def generated_file(name: str) -> Path:
    """Return the JSON Lines file of a generated data set, made on first use; it depends on the Python version alone."""
    path = cache_directory() / "generated" / f"{name}-{platform.python_version()}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for row in GENERATORS[name]():
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def python_docs() -> Iterator[str]:
    """Yield the standard library's documentation: each module, class and function with a docstring, then the topics.

    The order is that of the sorted file names, and in a file that of the source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
        parts = path.relative_to(root).parts
        if SKIPPED_DIRECTORIES.isdisjoint(parts):
            yield from _module_documents(path, ".".join(parts).removesuffix(".py").removesuffix(".__init__"))
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name].strip()


def _module_documents(path: Path, module: str) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # the library ships a few files for other dialects
        return
    if docstring := _docstring(tree):
        yield f"module {module}\n\n{docstring}"
    yield from _member_documents(tree, module)


def _member_documents(parent: ast.AST, qualified: str) -> Iterator[str]:
    for node in ast.iter_child_nodes(parent):
        if not isinstance(node, _DOCUMENTED):
            continue
        name = f"{qualified}.{node.name}"
        if docstring := _docstring(node):
            head = f"class {name}" if isinstance(node, ast.ClassDef) else f"{name}({ast.unparse(node.args)})"
            yield f"{head}\n\n{docstring}"
        yield from _member_documents(node, name)


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    docstring = ast.get_docstring(node, clean=False)
    cleaned = inspect.cleandoc(docstring) if docstring else ""
    return cleaned if len(cleaned) >= SHORTEST_DOCSTRING else None


GENERATORS: dict[str, Callable[[], Iterator[dict[str, str]]]] = {
    "python_docs": lambda: ({"text": document} for document in python_docs()),
    "drill_sums": drills.sums,
    "drill_recall": drills.recall,
    "drill_swaps": drills.swaps,
}
