"""affine:abd and affine:ded: find an input that makes a program print an output; write a program for a problem."""

from __future__ import annotations

import re
from abc import abstractmethod
from random import Random
from typing import ClassVar

from agentforge.environments.actions import act_tool, find_answer, find_call
from agentforge.environments.base import Environment, Info, Step
from agentforge.environments.options import as_count, as_flag, as_number
from agentforge.environments.programs.corpus import DEFAULT, ProgramRow, Task, open_corpus
from agentforge.environments.programs.judge import SHOWN, Runner, failure, judge, same_text
from agentforge.environments.splits import split_of
from agentforge.errors import UserError

NEWLINES = "\r\n"
_INPUT = re.compile(r"<INPUT>(.*?)</INPUT>", re.DOTALL | re.IGNORECASE)
_PYTHON = re.compile(r"```(?:python3?|py)[ \t]*\r?\n(.*?)```", re.DOTALL | re.IGNORECASE)
_PLAIN = re.compile(r"^```[ \t]*\r?\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Programs(Environment):
    """What both have in common: a corpus of programs, and a sandbox that runs them.

    Args:
        corpus: JSONL file or directory of programs, or the id of a registered data set (``rl_python``).
        hub_mirror: where a registered data set is looked for besides the Hub's cache.
        max_difficulty: rows above it are left out.
        max_turns: answers the model may give; after a wrong one it learns what went wrong, but never a hidden test.
        timeout: seconds that one run of a program may take.
        allow_unisolated: run programs even where the sandbox cannot hide this machine from them.

    Raises:
        UserError: the corpus is not here, or an option is wrong.
    """

    task: ClassVar[Task]

    def __init__(
        self,
        corpus: str = DEFAULT,
        hub_mirror: str | None = None,
        max_difficulty: int | None = None,
        max_turns: int = 1,
        timeout: float = 5.0,
        allow_unisolated: bool = False,
    ) -> None:
        self.max_turns = as_count(max_turns, f"environments.{self.id}.max_turns")
        self._runner = Runner(
            as_number(timeout, f"environments.{self.id}.timeout", over=True, most=3600),
            as_flag(allow_unisolated, f"environments.{self.id}.allow_unisolated"),
        )
        if max_difficulty is not None:
            as_count(max_difficulty, f"environments.{self.id}.max_difficulty", least=0)
        self._entries = open_corpus(corpus, hub_mirror).tasks(self.task, self.id, max_difficulty)
        if not self._entries:
            raise UserError(
                f"{self.id}: the corpus {corpus} has no tasks for it with max_difficulty = {max_difficulty}"
            )
        self._task_id = 0
        self._turns = 0

    @property
    def tasks(self) -> int:
        return len(self._entries)

    def difficulty(self, task_id: int) -> int:
        return self._entries[task_id].difficulty

    def reset(self, seed: int, task_id: int) -> str:
        if not 0 <= task_id < self.tasks:
            raise UserError(f"{self.id}: there is no task {task_id}; ids are 0 to {self.tasks - 1}")
        self._task_id = task_id
        self._turns = 0
        return self._begin(self._entries[task_id].read())

    def step(self, text: str) -> Step:
        self._turns += 1
        answer = self._answer(text)
        if answer is None:
            return self._wrong(self._missing, valid=False)
        problem = self._problem(answer)
        if problem is not None:
            return self._wrong(problem, valid=True)
        return Step("", 1.0, True, False, Info(success=True, valid_action=True, score=1.0))

    def _wrong(self, observation: str, valid: bool) -> Step:
        """Return a failed step: a single answer ends the task (terminated), the last of several is truncated."""
        info = Info(success=False, valid_action=valid, score=0.0)
        if not valid:
            info["problem"] = observation
        last = self._turns >= self.max_turns
        return Step(observation, 0.0, last and self.max_turns == 1, last and self.max_turns > 1, info)

    def _other(self, random: Random) -> ProgramRow:
        """Return the row of another task, never of a reserved one."""
        # A baseline's turns may be collected as rows, and rows must not show what a reserved task holds.
        others = [i for i in range(self.tasks) if i != self._task_id and split_of(self.id, i) == "train"]
        return self._entries[random.choice(others or [self._task_id])].read()

    def _unknown(self, baseline: str) -> UserError:
        return UserError(f"{self.id} has no baseline '{baseline}'; it has: {', '.join(self.baselines)}")

    _missing: ClassVar[str]

    @abstractmethod
    def _begin(self, row: ProgramRow) -> str:
        """Take over the task; returns the first observation."""

    @abstractmethod
    def _answer(self, text: str) -> str | None:
        """Return the answer of a turn, None if it has none."""

    @abstractmethod
    def _problem(self, answer: str) -> str | None:
        """Return what is wrong with an answer, None if it is right."""


class Abduction(Programs):
    """Given a program and its output, find an input. Any input counts with which it prints that output."""

    id = "affine:abd"
    task = "abduction"
    baselines: ClassVar[tuple[str, ...]] = ("random", "empty", "copy_output")
    instructions = (
        "You are given a Python program and what it printed. Find an input, as the program reads it from stdin, with "
        "which it prints exactly that. Several inputs may do; one is enough.\n"
        "Write the input between <INPUT> and </INPUT>, line by line as the program reads it. Only the last such pair "
        "counts."
    )
    action_tool = act_tool("Gives the answer.", "The input that the program reads, line by line.")
    _missing = "There is no input; write it between <INPUT> and </INPUT>."

    def _begin(self, row: ProgramRow) -> str:
        self._row = row
        # What is asked for must be what our sandbox prints, and the stated output may be that of another machine. So an
        # unverified program runs once here; if it fails, the stated output stays.
        self._expected = row.output
        if not row.verified:
            result = self._runner.run(row.program, row.inputs)
            self._expected = row.output if failure(result) else result.stdout
        return f"Program:\n```python\n{row.program.strip()}\n```\n\nOutput:\n```\n{self._expected.strip(NEWLINES)}\n```"

    def _answer(self, text: str) -> str | None:
        called = find_call(text)
        # A call may hold the input in its tags, or bare.
        found = _INPUT.findall(find_answer(text))
        return found[-1].strip(NEWLINES) if found else called

    def _problem(self, answer: str) -> str | None:
        result = self._runner.run(self._row.program, answer)
        if (problem := failure(result)) is not None:
            return f"With this input the program does not print that: {problem}."
        if same_text(result.stdout, self._expected):
            return None
        return f"With this input the program prints:\n{result.stdout.strip()[:SHOWN]}"

    def expert(self) -> str:
        return _tagged(self._row.inputs)

    def baseline(self, name: str, random: Random) -> str:
        if name == "random":
            return _tagged(self._other(random).inputs)
        if name == "empty":
            return _tagged("")
        if name == "copy_output":
            return _tagged(self._expected)
        raise self._unknown(name)


class Deduction(Programs):
    """Given a problem in words, write a program that passes hidden tests, all of them."""

    id = "affine:ded"
    task = "deduction"
    baselines: ClassVar[tuple[str, ...]] = ("random", "echo", "exit")
    instructions = (
        "Write a complete Python 3 program that solves the problem you are given. It reads its input from stdin and "
        "prints the answer and nothing else; only the standard library is there. Hidden tests decide, and all of them "
        "must pass.\n"
        "Write the program as one block that begins with ```python and ends with ```. Only the last such block counts."
    )
    action_tool = act_tool("Gives the answer.", "The complete Python program.")
    _missing = "There is no program; write it as a block that begins with ```python."

    def _begin(self, row: ProgramRow) -> str:
        self._row = row
        functions = sorted({case.function for case in row.cases if case.kind == "call"})
        called = f"\n\nThe tests call {', '.join(functions)}: define it, and read nothing." if functions else ""
        return row.prompt + called

    def _answer(self, text: str) -> str | None:
        called = find_call(text)
        shown = find_answer(text)
        # A block without a language only counts where no block of Python stands: it may quote an example.
        found = _PYTHON.findall(shown) or _PLAIN.findall(shown)
        return found[-1] if found else called

    def _problem(self, answer: str) -> str | None:
        problem = judge(answer, self._row.cases, self._runner)
        return None if problem is None else f"The program is not right: {problem}."

    def expert(self) -> str | None:
        return _fenced(self._row.program) if self._row.program else None

    def baseline(self, name: str, random: Random) -> str:
        if name == "random":
            return _fenced(self._other(random).program)
        if name == "echo":
            return _fenced("import sys\nprint(sys.stdin.read())")
        if name == "exit":
            return _fenced("import sys\nsys.exit(0)")
        raise self._unknown(name)


def _tagged(text: str) -> str:
    return f"<INPUT>\n{text.strip()}\n</INPUT>"


def _fenced(program: str) -> str:
    return f"```python\n{program.strip()}\n```"
