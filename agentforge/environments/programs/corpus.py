"""Programs with their inputs, outputs and tests: our own small ones, or rows of the shape of `satpalsr/rl-python`.

A row is one line of a JSONL file: ``prompt``, ``program``, ``inputs``, ``output``, and ``verification_info`` or
``test_cases`` with the tests, as JSON or as a Python literal. Ours add ``family``, ``difficulty`` and ``verified``.
A corpus may have gigabytes, so it is read once for where its rows are, and a row again when it is played.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from agentforge.data.sources.source_files import locate
from agentforge.environments.programs.judge import Case
from agentforge.environments.splits import EVAL_SHARE, split_of
from agentforge.errors import UserError
from agentforge.installation import find_paths
from agentforge.recipe.schema import Data, Source

logger = logging.getLogger(__name__)

DEFAULT = "data/programs"
LINES_A_LEVEL = 15

Task = Literal["abduction", "deduction"]


@dataclass(frozen=True)
class ProgramRow:
    """One program.

    Attributes:
        prompt: the problem in words.
        program: that solves it.
        inputs, output: an example of what it reads and prints.
        cases: the hidden tests.
        verified: the output is known to be that of the program.
    """

    prompt: str
    program: str
    inputs: str
    output: str
    cases: tuple[Case, ...]
    verified: bool


@dataclass(frozen=True)
class Entry:
    """Where a row is, and what must be known of it before it is read.

    Attributes:
        path, offset: its file, and the byte where its line begins.
        key: a number made of its problem; decides which split the row is for.
        difficulty: 0 the easiest.
        tasks: what it can be used for.
    """

    path: Path
    offset: int
    key: int
    difficulty: int
    tasks: frozenset[Task]

    def read(self) -> ProgramRow:
        """Read the row."""
        # By bytes: an offset into text would mean reading all the lines before it.
        with self.path.open("rb") as file:
            file.seek(self.offset)
            row: dict[str, Any] = json.loads(file.readline())
        return parse_row(row)


@dataclass
class Corpus:
    """All rows of a corpus; ``left_out``: how many were not taken, by reason."""

    entries: list[Entry] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def tasks(self, task: Task, environment_id: str, max_difficulty: int | None) -> list[Entry]:
        """Return the rows that are an environment's tasks 0, 1, 2 ...

        A problem belongs to one split, in all environments that use it: so that a program whose source was trained on
        is not asked for its input in an evaluation. Ids belong to splits by their own rule; each takes the next row of
        its split, until one split has no more.
        """
        pools: dict[str, deque[Entry]] = {"train": deque(), "eval": deque()}
        for entry in self.entries:
            if task in entry.tasks and (max_difficulty is None or entry.difficulty <= max_difficulty):
                pools["eval" if entry.key % EVAL_SHARE == 0 else "train"].append(entry)
        # Ids have their splits by hash, say 0 train, 1 train, 2 eval. Then id 0 is the first training problem, id 1 the
        # second and id 2 the first reserved one. Ids have no gaps, so they end where one split runs dry.
        chosen: list[Entry] = []
        while pool := pools[split_of(environment_id, len(chosen))]:
            chosen.append(pool.popleft())
        return chosen


def open_corpus(name: str, hub_mirror: str | None = None) -> Corpus:
    """Open a corpus.

    Args:
        name: a JSONL file, a directory of them, or the id of a registered data set.
        hub_mirror: directory laid out like the Hub, see the recipe's `data.hub_mirror`.

    Raises:
        UserError: it is not here, or none of its rows can be used.
    """
    paths = _files(name, hub_mirror)
    if wrong := [path for path in paths if path.suffix != ".jsonl"]:
        raise UserError(f"programs are read from .jsonl files; {wrong[0]} is not one")
    corpus = _index(tuple(path.resolve() for path in paths))
    if not corpus.entries:
        reasons = "; ".join(f"{n} {reason}" for reason, n in corpus.left_out.most_common()) or "there are no rows"
        raise UserError(f"no row of the corpus {name} can be used: {reasons}")
    return corpus


def _files(name: str, hub_mirror: str | None) -> list[Path]:
    paths = find_paths(name)
    if len(paths) == 1 and (path := paths[0]).is_dir():
        if found := sorted(path.glob("*.jsonl")):
            return found
        raise UserError(f"the directory {name} contains no .jsonl files of programs")
    return locate(Source(dataset=name), Data(hub_mirror=hub_mirror))


@cache
def _index(paths: tuple[Path, ...]) -> Corpus:
    """Read all rows once; environments of one process share the result."""
    corpus, seen = Corpus(), set()
    for path in paths:
        with path.open("rb") as file:
            offset = 0
            for line in file:
                entry = _entry(line, path, offset, corpus.left_out)
                # A copy would be a second task with the same answer; the first row is kept.
                if entry is not None and entry.key in seen:
                    corpus.left_out["repeat a problem"] += 1
                elif entry is not None:
                    seen.add(entry.key)
                    corpus.entries.append(entry)
                offset += len(line)
    if corpus.left_out:
        logger.warning("%s: %s of its rows left out: %s", paths[0].parent, corpus.left_out.total(), corpus.left_out)
    return corpus


def _entry(line: bytes, path: Path, offset: int, left_out: Counter[str]) -> Entry | None:
    if not line.strip():
        return None
    try:
        raw = json.loads(line)
        row = parse_row(raw)
    except (ValueError, RecursionError, MemoryError, AttributeError, TypeError):
        # A line of somebody else's file may be anything, even ten thousand brackets; the other lines are still good.
        left_out["cannot be read"] += 1
        return None
    tasks: set[Task] = set()
    if row.program and row.output.strip():  # any input would do for a program that is to print nothing
        tasks.add("abduction")
    if row.prompt and row.cases:
        tasks.add("deduction")
    if not tasks:
        left_out["have neither a program with its output nor a problem with its tests"] += 1
        return None
    # Of the problem if there is one: two solutions of it must not lie on both sides of the split. Spaces do not count,
    # because copies of a data set differ in them.
    key = hashlib.blake2b(" ".join((row.prompt or row.program).split()).encode("utf-8", "replace"), digest_size=8)
    level = raw.get("difficulty")
    if not isinstance(level, int):
        level = row.program.count("\n") // LINES_A_LEVEL
    return Entry(path, offset, int.from_bytes(key.digest(), "big"), level, frozenset(tasks))


def parse_row(raw: dict[str, Any]) -> ProgramRow:
    """Return a raw row as `ProgramRow`.

    Raises:
        ValueError, RecursionError, MemoryError, AttributeError, TypeError: it is not of the shape.
    """
    tests = raw.get("verification_info") or raw.get("test_cases")
    return ProgramRow(
        prompt=as_text(raw.get("prompt")).strip(),
        program=as_text(raw.get("program")),
        inputs=as_text(raw.get("inputs")),
        output=as_text(raw.get("output")),
        cases=parse_cases(tests) if tests else (),
        verified=raw.get("verified") is True,
    )


def parse_cases(tests: Any) -> tuple[Case, ...]:
    """Return the tests of a row; an unknown kind of test makes them all worthless, because nobody could pass it.

    Tests that expect nothing are left out: a program that does nothing would pass them.

    Args:
        tests: a list of tests, or a dict with ``test_cases``, or either as JSON or as a Python literal.

    Raises:
        ValueError, RecursionError, MemoryError: the text is neither.
    """
    if isinstance(tests, str):
        tests = _parse_text(tests)
    if isinstance(tests, dict):
        tests = tests.get("test_cases")
    cases = [_case(raw) if isinstance(raw, dict) else None for raw in tests] if isinstance(tests, list) else []
    known = [case for case in cases if case is not None]
    # All or none: without the tests that are not understood, a wrong program could pass the others.
    return tuple(case for case in known if case.tells) if len(known) == len(cases) else ()


def _parse_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        # It reads constants and runs nothing: a row is text that a stranger wrote.
        return ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(f"neither JSON nor a Python literal: {error}") from None


def _case(raw: dict[str, Any]) -> Case | None:
    given, expected = raw.get("input"), raw.get("output")
    if raw.get("type") == "stdin_stdout" and expected is not None:
        return Case("stdin", as_text(given), as_text(expected))
    if raw.get("type") == "function_call" and isinstance(raw.get("fn_name"), str) and isinstance(given, list):
        value = expected[0] if isinstance(expected, list) and expected else expected
        return Case("call", json.dumps(given), json.dumps(value), raw["fn_name"])
    return None


def as_text(value: Any) -> str:
    """Return what a program reads or prints as text: lists are lines, None is nothing, other values are JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    # Some rows hold a list of what the program reads line by line.
    if isinstance(value, list):
        return "\n".join(as_text(item) for item in value)
    return json.dumps(value, ensure_ascii=False)
