"""Make the corpus from its sources: ``python data/programs/build.py``.

Every reference program runs in the sandbox on every input that is drawn for it; what it prints is the expected output.
One JSONL file a family comes out beside this script, the same bytes every time. A program that fails, or a problem that
could be answered without reading, stops the build.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from sources import arithmetic, dynamic, lists, loops, parsing, simulation, strings  # noqa: F401  they register
from sources.problem import PROBLEMS, Problem, text

from agentforge.environments.programs.judge import Runner, failure

HERE = Path(__file__).parent
TESTS = 6
DRAWS = 400
LONGEST_OUTPUT = 2000
RUNNER = Runner(timeout=10.0)


class Broken(Exception):
    """A problem of the corpus is wrong."""


def printed(problem: Problem, given: str) -> str:
    """Return what the reference program prints."""
    result = RUNNER.run(problem.program, given)
    if (wrong := failure(result)) is not None:
        raise Broken(f"{problem.slug} on {given!r}: {wrong}")
    if len(result.stdout) > LONGEST_OUTPUT:
        raise Broken(f"{problem.slug} on {given!r}: {len(result.stdout)} characters")
    return result.stdout.rstrip("\n")


def pairs(problem: Problem) -> list[tuple[str, str]]:
    """Return the example and the tests, as (input, output); no input twice, and outputs as different as they get."""
    random = Random(problem.slug)
    drawn = list(dict.fromkeys(text(problem.draw(random)) for _ in range(DRAWS)))[: 4 * (TESTS + 1)]
    seen: dict[str, str] = {}
    rest: list[tuple[str, str]] = []
    for given in drawn:
        output = printed(problem, given)
        if output in seen:
            rest.append((given, output))
        else:
            seen[output] = given
        if len(seen) > TESTS:
            break
    chosen = [(given, output) for output, given in seen.items()]
    if len(chosen) < min(3, len(drawn)):
        raise Broken(f"{problem.slug} prints only {sorted(seen)}")
    return [*chosen, *rest][: TESTS + 1]


def row(problem: Problem) -> dict[str, Any]:
    """Return the row of a problem, in the fields of `satpalsr/rl-python` and some of our own."""
    tests = pairs(problem)
    empty = RUNNER.run(problem.program, "")
    free = None if failure(empty) else empty.stdout.strip()
    example = next((i for i, (_, output) in enumerate(tests) if output.strip() != free), None)
    if example is None:
        raise Broken(f"{problem.slug}: the empty input gives every output")
    given, output = tests.pop(example)
    prompt = f"{problem.statement}\n\nExample input:\n{given}\n\nExample output:\n{output}"
    cases = [{"type": "stdin_stdout", "input": i, "output": o} for i, o in tests]
    return {
        "id": f"{problem.family}/{problem.slug}",
        "family": problem.family,
        "difficulty": problem.difficulty,
        "prompt": prompt,
        "program": problem.program,
        "inputs": given,
        "output": output,
        "verified": True,
        "test_cases": cases,
    }


def main() -> int:
    """Write the corpus."""
    families: dict[str, list[str]] = {}
    for problem in PROBLEMS:
        families.setdefault(problem.family, []).append(json.dumps(row(problem), ensure_ascii=False))
    for family, rows in families.items():
        (HERE / f"{family}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"{len(PROBLEMS)} programs in {len(families)} families: { {f: len(r) for f, r in families.items()} }")
    return 0


if __name__ == "__main__":
    sys.exit(main())
