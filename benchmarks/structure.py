"""Figures of the package's structure: ``python -m benchmarks.structure``. Reads the source, imports nothing of it.

    layers    cli > pipeline > systems/<name> > serving, evaluation, export, trainers, planning
              > rollouts, environments, models, losses, data > recipe, systems/base and registry, artifacts, errors

An import is upward if it goes from a lower layer to a higher one. Imports inside functions count as much as those at
the top: they hide a circle, they do not remove it. Those for the type checker alone do not run, and do not count.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "agentforge"
PACKAGE = ROOT.name
LAYERS = {
    **dict.fromkeys(("rollouts", "environments", "models", "losses", "optim", "data"), 1),
    **dict.fromkeys(("serving", "evaluation", "export", "trainers", "planning"), 2),
    "pipeline": 4,
    "cli": 5,
    "__main__": 6,
}
SYSTEM_LAYER = 3


@dataclass
class Structure:
    """What was counted.

    Attributes:
        lines: of each file.
        functions: lines of each function, by ``file:name``.
        imports: modules that each module imports.
        code, comments: lines that hold code, and comments that stand on a line of their own or behind code.
    """

    lines: dict[str, int] = field(default_factory=dict)
    functions: dict[str, int] = field(default_factory=dict)
    imports: dict[str, set[str]] = field(default_factory=dict)
    code: int = 0
    comments: int = 0

    @property
    def upward(self) -> list[tuple[str, str]]:
        """Imports from a lower layer to a higher one."""
        return [(a, b) for a, b in self._edges() if layer(a) < layer(b)]

    @property
    def into_systems(self) -> list[tuple[str, str]]:
        """Imports of a system's inside from outside of it."""
        return [(a, b) for a, b in self._edges() if (owner := system(b)) is not None and system(a) != owner]

    @property
    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other (strongly connected components of more than one)."""
        return [sorted(group) for group in _components(self.imports) if len(group) > 1]

    def _edges(self) -> Iterator[tuple[str, str]]:
        return ((module, other) for module, others in sorted(self.imports.items()) for other in sorted(others))


def layer(module: str) -> int:
    """Return how high a module stands."""
    return SYSTEM_LAYER if system(module) is not None else LAYERS.get(module.split(".")[1] if "." in module else "", 0)


def system(module: str) -> str | None:
    """Return the system that a module belongs to; None: to none."""
    parts = module.split(".")
    inside = len(parts) > 2 and parts[1] == "systems" and (ROOT / "systems" / parts[2]).is_dir()
    return parts[2] if inside else None


def read(root: Path = ROOT) -> Structure:
    """Read every file of the package."""
    found = Structure()
    files = {module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    for module, path in files.items():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        name = str(path.relative_to(root.parent))
        found.lines[name] = text.count("\n")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.functions[f"{name}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
        found.imports[module] = {other for other in _imports(tree, set(files)) if other != module}
        code, comments = _code_and_comments(text)
        found.code, found.comments = found.code + code, found.comments + comments
    return found


def module_name(path: Path, root: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")


def _imports(tree: ast.AST, known: set[str]) -> Iterator[str]:
    for node in _running(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in known else str(node.module) for name in inside)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those that only the type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from _running(other)
        else:
            yield from _running(child)


def _code_and_comments(text: str) -> tuple[int, int]:
    """Return lines of code, and comments; docstrings and blank lines are neither."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    code: set[int] = set()
    comments = 0
    alone = True  # no code yet in this statement
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            comments += not token.string.startswith(("# noqa", "# type:", "# fmt:"))
        elif token.type == tokenize.NEWLINE:
            alone = True
        elif token.type not in skipped and not (alone and token.type == tokenize.STRING):
            code.update(range(token.start[0], token.end[0] + 1))
            alone = False
    return len(code), comments


def _components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components (Tarjan, SIAM J. Comput. 1(2), 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            found.append(stack[cut:])
            del stack[cut:]

    for node in graph:
        if node not in index:
            visit(node)
    return found


def main() -> None:
    """Print the figures."""
    found = read()
    longest = max(found.lines, key=lambda name: found.lines[name])
    function = max(found.functions, key=lambda name: found.functions[name])
    print(f"files {len(found.lines)}, lines {sum(found.lines.values()):,}")
    print(f"longest file {longest} ({found.lines[longest]} lines)")
    print(f"longest function {function} ({found.functions[function]} lines)")
    share = 100 * found.comments / found.code
    print(f"comments {found.comments:,} to {found.code:,} lines of code: {share:.1f} a hundred")
    for name, things in (("circles", found.circles), ("upward", found.upward), ("into systems", found.into_systems)):
        print(f"{name} {len(things)}", *things, sep="\n  ")


if __name__ == "__main__":
    main()
