"""Whatever a model writes into a call is answered with a result that it can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentforge.environments.sandbox.sandbox import Sandbox, isolation_problem, run_command, run_program
from agentforge.errors import UserError
from agentforge.serving.local_tools import LocalTools, read_files

pytestmark = pytest.mark.skipif(isolation_problem() is not None, reason=f"no isolation here: {isolation_problem()}")
TEXT = st.text(st.characters())  # with surrogates: JSON has them
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda part: st.lists(part) | st.dictionaries(TEXT, part),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def tools() -> Iterator[LocalTools]:
    with closing(LocalTools("sandbox", {"a.txt": "x\n"})) as opened:
        yield opened


def run(tools: LocalTools, arguments: Any) -> str:
    text, ran = tools.run({"function": {"name": "bash", "arguments": arguments}})
    assert ran
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"command": "echo a\0b"}, "the command holds a NUL character"),
        ({"command": "echo \ud800"}, r"the command holds '\ud800' at character 5"),
        ({"command": "echo \udc80"}, r"the command holds '\udc80' at character 5"),
        ({"command": "x" * (1 << 17)}, "the command has 131,072 bytes"),
        ({"command": "ü" * (1 << 16)}, "the command has 131,072 bytes"),
        ({"command": ""}, "the command is empty"),
        ({"command": " \n"}, "the command is empty"),
        ({}, "the command is empty"),
        ({"command": ["ls"]}, "the command must be a string, not list"),
        ({"command": 7}, "the command must be a string, not int"),
        ("ls", "the arguments must be an object"),
        ({"command": "true", "timeout": "5"}, "the timeout must be a number"),
        ({"command": "true", "timeout": True}, "the timeout must be a number"),
        ({"command": "true", "timeout": float("nan")}, "the timeout must be a number"),
        ({"command": "true", "timeout": float("inf")}, "the timeout must be a number"),
        ({"command": "true", "timeout": 1e300}, "the timeout must be a number"),
        ({"command": "true", "timeout": 0}, "the timeout must be a number"),
        ({"command": "true", "timeout": None}, "the timeout must be a number"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_sentence(tools: LocalTools, arguments: Any, error: str) -> None:
    text = run(tools, arguments)
    assert text.startswith(f"error: {error}")
    assert "\n" not in text
    assert run(tools, {"command": "cat a.txt"}) == "x", "and the sandbox is as it was"


def test_the_longest_command_runs(tools: LocalTools) -> None:
    assert run(tools, {"command": "echo " + "x" * ((1 << 17) - 6)}).startswith("xxx")


@settings(max_examples=60, deadline=None)
@given(command=TEXT | JSON, more=st.dictionaries(st.sampled_from(["timeout", "x"]), JSON, max_size=1))
def test_nothing_that_a_model_writes_raises(tools: LocalTools, command: Any, more: dict[str, Any]) -> None:
    run(tools, {"command": command, **more})
    run(tools, command)


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox({"f": ""}) as opened:
        yield opened


@settings(max_examples=30, deadline=None)
@given(text=TEXT)
def test_whatever_the_sandbox_is_given_it_takes_or_says_why_not(box: Sandbox, text: str) -> None:
    """Paths, files, programs and inputs: a ValueError with a sentence, never an error of the system."""
    for attempt in (
        lambda: box.write(text, "x"),
        lambda: box.write("f", text),
        lambda: run_program(text),
        lambda: run_program("input()", stdin=text),
    ):
        try:
            attempt()
        except ValueError as error:
            assert not isinstance(error, UnicodeError)


@pytest.mark.parametrize("name", ["", ".", "a\0b", "\ud800", "x" * 300, "a/" * 3000, "f/g", "/", "../x"])
def test_a_path_that_cannot_be_written_is_said(box: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be written|outside of the sandbox"):
        box.write(name, "x")


def test_an_empty_command_is_a_command() -> None:
    assert (run_command("").exit_code, run_command("").stderr) == (0, "")


def test_a_broken_sandbox_is_started_anew() -> None:
    with closing(LocalTools("sandbox", {"a.txt": "x\n"})) as tools:
        run(tools, {"command": "echo y > b.txt"})
        assert tools._sandbox is not None
        tools._sandbox._zygote._process.kill()
        tools._sandbox._zygote._process.wait()
        assert run(tools, {"command": "ls"}).startswith("error: the sandbox broke and was started anew")
        assert run(tools, {"command": "ls"}) == "a.txt"


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff")).write_text("x")
    with pytest.raises(UserError, match="text files only"):
        read_files(tmp_path)
