"""Whether a program does what it should: it runs in the sandbox, and what it printed is compared out here.

Only the printed text counts. A program that hangs, floods, crashes or kills its processes has failed, one that exits
early has printed nothing, and what it was expected to print is nowhere that it can read. A test that expects nothing
would be passed by doing nothing, so it is no test.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from agentforge.environments.base import EnvironmentFailed
from agentforge.environments.sandbox.sandbox import SandboxResult, run_program

SHOWN = 200
"""Characters of a program's output that an observation quotes."""

RELATIVE, ABSOLUTE = 1e-9, 1e-12
"""How far apart two floats may be: rounding errors of another order of operations, not another answer. The absolute
part is for results that should be 0 and come out as 5.5e-17; it is small, so that printing 0 does not solve tasks whose
answers are small."""

# A number that is written as a float, by itself: no part of a version (1.2.3), a name (v1.10), a complex number or a
# longer number. Integers are no floats: they are compared digit by digit, however many they are.
_FLOAT = re.compile(
    r"((?<![\w.])[+-]?(?:[0-9]++\.[0-9]*+(?:[eE][+-]?[0-9]++)?|\.[0-9]++(?:[eE][+-]?[0-9]++)?|[0-9]++[eE][+-]?[0-9]++)"
    r"(?!\.?\w))"
)

_SOLVE = re.compile(r"^def solve\(\s*\)", re.MULTILINE)


@dataclass(frozen=True)
class Case:
    """One test.

    Attributes:
        kind: a program that reads and prints, or a function that is called.
        given: the text on stdin; or the arguments as a JSON array.
        expected: the printed text; or the returned value as JSON.
        function: name of the function.
    """

    kind: Literal["stdin", "call"]
    given: str
    expected: str
    function: str = ""

    @property
    def tells(self) -> bool:
        """Whether it tells a right program from one that does nothing: it expects text, or a value that is not None."""
        return self.expected.strip() not in ("", "null" if self.kind == "call" else "")


@dataclass(frozen=True)
class Runner:
    """How programs are run.

    Attributes:
        timeout: seconds of wall time for each run.
        allow_unisolated: run even where the sandbox cannot hide the host.
    """

    timeout: float = 5.0
    allow_unisolated: bool = False

    def run(self, program: str, stdin: str) -> SandboxResult:
        """Run a program that somebody else wrote.

        Raises:
            CheckRefused: this machine cannot isolate it.
            EnvironmentFailed: the sandbox broke.
        """
        # As in a file: a program may drop the last character of every line that it reads.
        text = stdin if stdin.endswith("\n") else stdin + "\n"
        try:
            return run_program(
                clean(callable_program(program)),
                stdin=clean(text),
                timeout=self.timeout,
                allow_unisolated=self.allow_unisolated,
            )
        except ValueError as error:  # the model's text does not fit in; that is its fault and not the sandbox's
            return SandboxResult(1, "", str(error), timed_out=False, truncated=False, isolated=True, seconds=0.0)
        except (RuntimeError, OSError) as error:
            raise EnvironmentFailed(f"the sandbox failed: {error}") from error

    def problem(self, program: str, case: Case) -> str | None:
        """Return what is wrong with a program's answer to one case, None if it is right.

        Raises:
            CheckRefused, EnvironmentFailed: as `run`.
        """
        if not case.tells:
            return "it expects nothing, so a program that does nothing would pass it"
        if case.kind == "stdin":
            result = self.run(program, case.given)
            return failure(result) or (None if same_text(result.stdout, case.expected) else "it prints something else")
        if not case.function.isidentifier():
            return f"'{case.function}' is no name of a function"
        result = self.run(calling(program, case), "")
        return failure(result) or (None if _same_value(result.stdout, case.expected) else "it returns something else")


def judge(program: str, cases: tuple[Case, ...], runner: Runner) -> str | None:
    """Return the first thing that is wrong with a program, None if it passes every case; no case is no pass.

    Raises:
        CheckRefused, EnvironmentFailed: as `Runner.run`.
    """
    if not cases:
        return "there are no tests"
    for number, case in enumerate(cases, 1):
        if (problem := runner.problem(program, case)) is not None:
            return f"test {number} of {len(cases)}: {problem}"
    return None


def failure(result: SandboxResult) -> str | None:
    """Return why a run counts as failed whatever it printed, None if it does not."""
    if result.timed_out:
        return f"it does not end within {result.seconds:.0f} s"
    if result.truncated:
        return "it prints too much"
    if result.exit_code != 0:
        last = (result.stderr.strip().splitlines() or [f"exit code {result.exit_code}"])[-1]
        return f"it fails: {last[:SHOWN]}"
    return None


def calling(program: str, case: Case) -> str:
    """Return a program that defines the function and prints what it returns, as JSON in its last line."""
    arguments = json.dumps(case.given)  # a JSON text as a literal of Python: both write ASCII strings alike
    return (
        f"{program}\n\nimport json as _json\n_value = {case.function}(*_json.loads({arguments}))\n"
        # The empty print ends a line that the program may have left open: only the last line is read.
        "print()\nprint(_json.dumps(_value, default=str))\n"
    )


def callable_program(program: str) -> str:
    """Return a program that calls its `solve`, if it defines one and never names it again."""
    if _SOLVE.search(program) and len(re.findall(r"\bsolve\b", program)) == 1:
        return f"{program}\n\nsolve()\n"
    return program


def same_text(printed: str, expected: str) -> bool:
    """Compare outputs. Line ends, spaces before them and empty lines around do not count.

    Numbers that both write as floats may differ by `RELATIVE` or `ABSOLUTE`; everything else must be the same text. If
    nothing is expected, no output is right: a program that does nothing would be.
    """
    here, wanted = _normal(printed), _normal(expected)
    if not wanted:
        return False
    if here == wanted:
        return True
    # Both split at their floats: texts at even places, floats at odd ones
    parts, wanted_parts = _FLOAT.split(here), _FLOAT.split(wanted)
    if len(parts) != len(wanted_parts):
        return False
    pairs = enumerate(zip(parts, wanted_parts, strict=True))
    return all(a == b or (place % 2 == 1 and _near(float(a), float(b))) for place, (a, b) in pairs)


def _near(a: float, b: float) -> bool:
    # Not for infinities, which isclose takes for equal: 1e400 and 1e500 are the same float and not the same number
    return math.isfinite(a) and math.isfinite(b) and math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").strip().split("\n"))


def _same_value(printed: str, expected: str) -> bool:
    lines = printed.strip().splitlines()
    try:
        return _same(*(json.loads(text, parse_float=_read_float) for text in (lines[-1], expected)))
    except (IndexError, ValueError, RecursionError):
        return False


def _read_float(text: str) -> float | Decimal:
    return value if math.isfinite(value := float(text)) else Decimal(text)  # 1e400 is a number, though not a float


def _same(value: Any, wanted: Any) -> bool:
    """Compare values of JSON: two floats as in `same_text`, other numbers exactly; True is not 1, NaN is NaN."""
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_same, value, wanted))
    if isinstance(value, dict) and isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(_same(value[key], wanted[key]) for key in wanted)
    if isinstance(value, float) and isinstance(wanted, float):
        # NaN is equal to nothing, not even to itself, but a program that should return it and does is right.
        return value == wanted or _near(value, wanted) or (math.isnan(value) and math.isnan(wanted))
    # In Python True == 1, in JSON true is not 1.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def clean(text: str) -> str:
    """Return text that can be written as UTF-8: half surrogate pairs become question marks."""
    return text.encode("utf-8", "replace").decode()
