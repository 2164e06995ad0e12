"""A problem is a function: its docstring the statement, its body the reference program, its decorator draws inputs."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from random import Random
from typing import NamedTuple

Line = int | str | list[int] | list[str]
Draw = Callable[[Random], list[Line]]


class Problem(NamedTuple):
    """One problem.

    Attributes:
        family: the module it stands in.
        slug: its name.
        difficulty: 0 a formula or one loop, 1 a loop with a condition or two, 2 an algorithm, 3 a combination of them.
        statement: what is read and what is printed.
        program: reference solution.
        draw: draws one input, as lines; a list is one line with spaces between.
    """

    family: str
    slug: str
    difficulty: int
    statement: str
    program: str
    draw: Draw


PROBLEMS: list[Problem] = []


def problem(difficulty: int, draw: Draw) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Take a function as a problem."""

    def take(function: Callable[[], None]) -> Callable[[], None]:
        source = textwrap.dedent(inspect.getsource(function))
        body = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)).body
        first = body[0].end_lineno or 0
        program = textwrap.dedent("\n".join(source.splitlines()[first:])).strip()
        statement = " ".join((function.__doc__ or "").split())
        family = function.__module__.rpartition(".")[2]
        PROBLEMS.append(
            Problem(family, function.__name__.replace("_", "-"), difficulty, statement, program + "\n", draw)
        )
        return function

    return take


def text(lines: list[Line]) -> str:
    """Return an input as the program reads it."""
    return "\n".join(" ".join(map(str, line)) if isinstance(line, list) else str(line) for line in lines)


def ints(r: Random, least: int, most: int, low: int, high: int) -> list[int]:
    """Draw between ``least`` and ``most`` whole numbers from ``low`` to ``high``."""
    return [r.randint(low, high) for _ in range(r.randint(least, most))]


def counted(values: list[int]) -> list[Line]:
    """Return a line with how many there are, and a line with them."""
    return [len(values), values]


def word(r: Random, least: int, most: int, letters: str = "abcdefghijklmnopqrstuvwxyz") -> str:
    """Draw a word of ``least`` to ``most`` letters."""
    return "".join(r.choice(letters) for _ in range(r.randint(least, most)))


def words(r: Random, least: int, most: int, letters: str = "abcdefghijklmnopqrstuvwxyz") -> list[str]:
    """Draw between ``least`` and ``most`` words of 1 to 6 letters."""
    return [word(r, 1, 6, letters) for _ in range(r.randint(least, most))]


def grid(r: Random, cells: str, least: int = 3, most: int = 6) -> list[Line]:
    """Draw a line with rows and columns, and that many lines of ``cells``."""
    rows, columns = r.randint(least, most), r.randint(least, most)
    return [[rows, columns], *(word(r, columns, columns, cells) for _ in range(rows))]
