"""pass@1 of programs that a model wrote, in our sandbox and never in this process.

MBPP and HumanEval judge by ``evaluate.load("code_eval")``, a metric that runs each candidate with `exec` in a fork of
the evaluating process: with its files, its network and its environment, and that only says so in a warning. While a
task is loaded, `sandboxed` puts `SandboxedCodeEval` in that metric's place. It answers in the same form, so the task's
own code (which part of an answer is the program, which tests it has to pass) is used as it stands.
"""

from __future__ import annotations

import ast
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from agentforge.environments.sandbox.sandbox import PROGRAM_LIMITS, run_program
from agentforge.errors import UserError

METRIC = "code_eval"
TIMEOUT = 10.0
"""Seconds of wall time for a candidate and its tests. code_eval gives 3; a machine that is busy would decide with it
which right programs pass, so what is limited to that is CPU time."""
LIMITS = type(PROGRAM_LIMITS)(**{**vars(PROGRAM_LIMITS), "cpu_seconds": 3})


def passes(candidate: str, tests: str) -> bool:
    """Tell whether a program passes its tests.

    It does if the line behind the last test was reached. A program that ends the interpreter before its tests
    (``exit(0)``) ends with 0 too, so the exit code alone proves nothing; a word that nobody could know beforehand has
    to be printed at the end. A program that reads its own source and prints the word is not held back by that: tests
    that run in the same interpreter as what they test can always be forged, here as in every such harness.
    """
    word = secrets.token_hex(16)
    try:
        result = run_program(f"{candidate}\n{tests}\nprint('\\n{word}')\n", timeout=TIMEOUT, limits=LIMITS)
    except ValueError:  # a NUL or half of a surrogate pair: no file can hold such a program
        return False
    return result.exit_code == 0 and not result.timed_out and result.stdout.rstrip("\n").endswith(word)


def refuse_foreign_imports(tests: str) -> None:
    """Refuse tests that import what the sandbox does not have: every candidate would fail, right or wrong.

    Raises:
        UserError: with the module's name.
    """
    try:
        tree = ast.parse(tests)
    except SyntaxError:
        return  # tests that only make sense behind the candidate: the end of a function
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    for module in modules:
        if module.partition(".")[0] not in sys.stdlib_module_names:
            raise UserError(
                f"the tests of this benchmark import {module}, which the sandbox does not have (it has the standard "
                "library only), so no program could pass them; remove the task from evaluate.benchmarks.tasks"
            )


class SandboxedCodeEval:
    """In place of the metric ``code_eval`` of the evaluate library, with its `compute`."""

    def compute(
        self,
        references: Sequence[str],
        predictions: Sequence[Sequence[str]],
        k: Sequence[int] = (1, 10, 100),
        **_: Any,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        """Return the share of passing candidates as ``pass@1``, and what became of each candidate.

        Args:
            references: tests of each task.
            predictions: candidates for each task.
            k: only 1 is known; more needs several samples of each answer, which are not drawn here.

        Raises:
            UserError: another k, or tests that cannot run in the sandbox.
            CheckRefused: this machine has no sandbox.
        """
        if list(k) != [1]:
            raise UserError(f"pass@{max(k)} needs several samples of each answer; only pass@1 tasks are supported")
        rows: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        shares = []
        for number, (tests, candidates) in enumerate(zip(references, predictions, strict=True)):
            refuse_foreign_imports(tests)
            passed = [passes(candidate, tests) for candidate in candidates]
            rows[number] = [(i, {"task_id": number, "passed": ok}) for i, ok in enumerate(passed)]
            shares.append(sum(passed) / len(passed))
        return {"pass@1": sum(shares) / len(shares)}, rows


@contextmanager
def sandboxed() -> Iterator[None]:
    """Give everybody who asks the evaluate library for ``code_eval`` ours instead."""
    import evaluate

    original = evaluate.load

    def load(path: str, *args: Any, **options: Any) -> Any:
        return SandboxedCodeEval() if path == METRIC else original(path, *args, **options)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original


def refuse_unsandboxed(task: Any) -> None:
    """Refuse a task that runs what a model wrote in a way of its own.

    Args:
        task: of lm-eval, loaded within `sandboxed`.

    Raises:
        UserError: it is marked ``unsafe_code`` and does not judge by ``code_eval``.
    """
    if not getattr(task, "UNSAFE_CODE", False):
        return
    functions = [*getattr(task, "_metric_fn_list", {}).values(), task.get_config("process_results")]
    # A function's globals are its module's: there lies what `evaluate.load` returned when the module was imported.
    if not any(
        isinstance(value, SandboxedCodeEval)
        for function in functions
        # lm-eval keeps a metric's bound `__call__`; what it is bound to is the function
        for value in getattr(getattr(function, "__self__", function), "__globals__", {}).values()
    ):
        raise UserError(
            f"the benchmark {task.task_name} runs what the model writes in this process, outside of the sandbox; "
            "remove it from evaluate.benchmarks.tasks"
        )
