"""Whether a program does what it should: it runs in the sandbox, and what it printed is compared out here.

Only the printed text counts. A program that exits early, hangs, floods, crashes or kills its processes has failed, and
what it was expected to print is nowhere that it can read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from agentforge.environments.base import EnvironmentFailed
from agentforge.environments.sandbox.sandbox import SandboxResult, run_program

SHOWN = 200
"""Characters of a program's output that an observation quotes."""

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
        text = stdin if stdin.endswith("\n") else stdin + "\n"
        try:
            return run_program(
                clean(callable_program(program)),
                stdin=clean(text),
                timeout=self.timeout,
                allow_unisolated=self.allow_unisolated,
            )
        except (RuntimeError, OSError) as error:
            raise EnvironmentFailed(f"the sandbox failed: {error}") from error

    def problem(self, program: str, case: Case) -> str | None:
        """Return what is wrong with a program's answer to one case, None if it is right.

        Raises:
            CheckRefused, EnvironmentFailed: as `run`.
        """
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
        "print()\nprint(_json.dumps(_value, default=str))\n"
    )


def callable_program(program: str) -> str:
    """Return a program that calls its `solve`, if it defines one and never names it again."""
    if _SOLVE.search(program) and len(re.findall(r"\bsolve\b", program)) == 1:
        return f"{program}\n\nsolve()\n"
    return program


def same_text(printed: str, expected: str) -> bool:
    """Compare outputs: line ends, spaces before them and empty lines around do not count."""
    return _normal(printed) == _normal(expected)


def _normal(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").strip().split("\n"))


def _same_value(printed: str, expected: str) -> bool:
    lines = printed.strip().splitlines()
    try:
        value, wanted = json.loads(lines[-1]), json.loads(expected)
    except (IndexError, ValueError, RecursionError):
        return False
    return bool(_typed(value) == _typed(wanted))


def _typed(value: Any) -> Any:
    """Return a value that is equal to another only if both are true or false, or neither is: for Python True is 1."""
    if isinstance(value, list):
        return [_typed(item) for item in value]
    if isinstance(value, dict):
        return {key: _typed(item) for key, item in value.items()}
    return (value, isinstance(value, bool))


def clean(text: str) -> str:
    """Return text that can be written as UTF-8: half surrogate pairs become question marks."""
    return text.encode("utf-8", "replace").decode()
