"""Source code with what its author says of it."""

from __future__ import annotations

import ast

from agentforge.data.sources.adapters.base import Raw, Rejected, Row, SourceOptions, exchange


def code_to_text(raw: Raw, options: SourceOptions) -> Row | Rejected:
    """CodeXGLUE's code summarisation: a Python function without its docstring, and the docstring's first paragraph.

    The column ``code`` still has the docstring inside. Left there, the answer would only be copied.
    """
    code, docstring = options.get(raw, "code"), options.get(raw, "docstring")
    if not isinstance(code, str) or not isinstance(docstring, str):
        return Rejected("a column is missing")
    bare = _without_docstring(code.replace("\r\n", "\n"))
    if bare is None:
        return Rejected("no Python 3 with a body")
    summary = " ".join(docstring.strip().split("\n\n")[0].split())
    if not summary:
        return Rejected("empty answer")
    document = f"{bare}\n\nQuestion: What does this function do?\nAnswer: {summary}"
    return exchange(f"What does this function do?\n\n```python\n{bare}\n```", summary, document=document)


def _without_docstring(code: str) -> str | None:
    """Return a function's source without its docstring, everything else as it stands; None if it cannot be parsed."""
    try:
        function = ast.parse(code).body[0]
    except (SyntaxError, ValueError, IndexError, RecursionError):  # a quarter of the set is Python 2
        return None
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return None
    first = function.body[0]
    if ast.get_docstring(function) is None or first.end_lineno is None:
        return code.strip()
    lines = code.split("\n")
    # By lines, not by `ast.unparse`: that would drop comments and lay the code out anew.
    kept = [*lines[: first.lineno - 1], *lines[first.end_lineno :]]
    if len(function.body) == 1:
        return None
    return "\n".join(kept).strip()
