"""The chat's terminal, for real: a pseudo-terminal with what a person types, pastes and presses."""

from __future__ import annotations

import io
import os
import pty
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentforge.errors import UserError
from agentforge.serving.terminal_input import checked_text, piped_text

PROGRAM = """
import sys
if sys.argv[1] == "plain":
    sys.modules["readline"] = None  # a Python that was built without it
from contextlib import closing
from rich.console import Console
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.serving.chat import Terminal, _converse
from agentforge.serving.chat_session import ChatSession
from agentforge.serving.local_tools import LocalTools
import time

def answer(conversation):
    users = [m["content"] for m in conversation.messages if m["role"] == "user"]
    if users[-1] == "wait":
        print("[thinking]", flush=True)
        time.sleep(60)
    return f"[{len(users)}: {users[-1]!r}]"

terminal = Terminal(Console(width=200, highlight=False))
with closing(LocalTools("show", None)) as tools:
    make = lambda: ChatSession(ScriptedPolicy(answer), None, None, tools, Sampling(500))
    _converse(make, terminal, "show")
print("[left]", flush=True)
"""


class Screen:
    """The other end of a chat's terminal."""

    def __init__(self, kind: str) -> None:
        self.child, self.side = pty.fork()
        if self.child == 0:
            os.environ |= {"TERM": "xterm", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "1"}
            os.execv(sys.executable, [sys.executable, "-c", PROGRAM, kind])
        self.shown = ""

    def see(self, text: str, seconds: float = 60) -> str:
        """Read until a text is shown, and return what was shown before it."""
        until = time.monotonic() + seconds
        while text not in self.shown:
            if not select.select([self.side], [], [], max(0.0, until - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} was not shown, but: {self.shown[-1000:]!r}")
            self.shown += os.read(self.side, 4096).decode("utf-8", errors="replace")
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, keys: bytes) -> None:
        os.write(self.side, keys)

    def interrupt(self, until: str) -> None:
        """Press Ctrl-C; once more where it fell between the prompt and readline's wait, where Python only notes it."""
        self.type(b"\x03")
        try:
            self.see(until, seconds=15)
        except AssertionError:
            self.type(b"\x03")
            self.see(until)


@pytest.fixture(params=["readline", "plain"])
def screen(request: pytest.FixtureRequest) -> Iterator[Screen]:
    opened = Screen(request.param)
    opened.see("Ctrl-D quits")
    opened.see("> ")
    yield opened
    os.close(opened.side)
    os.waitpid(opened.child, 0)


def test_a_person_at_the_terminal(screen: Screen, request: pytest.FixtureRequest) -> None:
    marked = "[readline]" in request.node.name
    pasted = b"\x1b[200~one\ntwo\nthree\x1b[201~\r" if marked else b"one\ntwo\nthree\n"
    screen.type(pasted)
    screen.see("[1: 'one\\ntwo\\nthree']")
    screen.type(b"/nwe\r")
    assert "[2" not in screen.see("there is no command /nwe; did you mean '/new'?")
    screen.see("/new starts a new conversation, /help shows this list, /quit leaves")
    screen.type(b"/etc/hosts\r")
    screen.see("[2: '/etc/hosts']")
    screen.type(b" /new\r")
    screen.see("[3: '/new']")
    screen.type(b"\x1b[200~caf\xe9!\x1b[201~\r" if marked else b"caf\xe9\n")
    screen.see("the input is not UTF-8: byte 0xe9 at position 3")
    screen.type(b"wait\r")
    screen.see("[thinking]")
    screen.interrupt(until="[stopped]")
    screen.see("> ")
    screen.type("größer\r".encode())
    screen.see("[5: 'größer']")  # the conversation is still there, with the question that was not answered
    screen.see("> ")
    screen.interrupt(until="Ctrl-C again, or Ctrl-D, quits")
    screen.see("> ")
    screen.type(b"again\r")
    screen.see("[6: 'again']")
    screen.type(b"/new\r")
    screen.see("a new conversation")
    screen.see("> ")
    screen.type(b"hi\r")
    screen.see("[1: 'hi']")
    screen.see("> ")
    screen.type(b"\x04")
    screen.see("[left]")


def test_a_pipe_that_is_no_utf8_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "latin1").write_bytes("drei Stück".encode("latin1"))
    with (tmp_path / "latin1").open(encoding="utf-8") as opened:
        monkeypatch.setattr("sys.stdin", opened)
        with pytest.raises(UserError, match="the standard input is not UTF-8: byte 0xfc at position 7; convert it"):
            piped_text()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("drei Stück\n".encode()), encoding="latin1"))
    assert piped_text() == "drei Stück\n", "whatever the locale is"


def test_an_argument_that_is_no_utf8_is_named() -> None:
    with pytest.raises(UserError, match="--prompt is not UTF-8: byte 0xe9 at position 3"):
        checked_text(os.fsdecode(b"caf\xe9"), "--prompt")
    assert checked_text("café", "--prompt") == "café"
