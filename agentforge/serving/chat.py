"""`chat`: a thin terminal over `ChatSession`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from agentforge.data.tools import ToolSet, load_tools
from agentforge.environments.sandbox.sandbox import isolation
from agentforge.errors import UserError, did_you_mean
from agentforge.evaluation.evaluate import load_questions
from agentforge.models.locate_model import locate_model
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.base import Policy, Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.serving.chat_session import ChatSession, Listener
from agentforge.serving.local_tools import LocalTools, ToolMode, read_files
from agentforge.serving.terminal_input import checked_text, piped_text, typed_reader
from agentforge.serving.turns import Delta

MAX_NEW_TOKENS = 1024
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""All but the tab and the end of a line."""
COMMANDS = {"/new": "starts a new conversation", "/help": "shows this list", "/quit": "leaves"}
COMMAND = re.compile(r"/[\w-]*(?=\s|$)")
"""A slash and a word: `/etc/hosts` is none."""
ENDINGS = {
    "cut": f"cut at {MAX_NEW_TOKENS} tokens",
    "limit": "stopped: it kept calling tools",
    "interrupted": "stopped",
}


def visible(text: str) -> str:
    """Return text that a terminal shows and does not obey.

    What a model or a tool writes is untrusted: an escape sequence in it could rewrite what was shown before, or the
    clipboard. Control characters become their pictures (ESC: U+241B), halves of surrogate pairs U+FFFD.
    """
    return CONTROL.sub(lambda found: chr(0x2400 + ord(found[0])) if found[0] < " " else "\ufffd", text)


class Terminal(Listener):
    """Shows what happens: the answer as it is, everything else dimmed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._open_line = False

    def delta(self, delta: Delta) -> None:
        kind, text = delta
        text = visible(text)
        self.console.print(text, style="dim" if kind == "reasoning" else "", end="", markup=False, soft_wrap=True)
        self._open_line = not text.endswith("\n")

    def call(self, call: dict[str, Any], problem: str | None) -> None:
        function = call["function"]
        arguments = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in function["arguments"].items())
        self.note(f"→ {function['name']}({arguments})", "cyan")

    def result(self, call: dict[str, Any], text: str) -> None:
        if text:
            self.note("\n".join(f"  {line}" for line in text.splitlines()), "dim")

    def problem(self, text: str) -> None:
        self.note(f"! {text}", "yellow")

    def note(self, text: str, style: str) -> None:
        """Print a line of its own."""
        self.end_line()
        self.console.print(visible(text), style=style, markup=False, soft_wrap=True)

    def end_line(self) -> None:
        if self._open_line:
            self.console.print()
            self._open_line = False


def chat(
    recipe: Recipe,
    model: str | None = None,
    *,
    prompt: str | None = None,
    examples: int = 0,
    tools: str = "show",
    files: Path | None = None,
    console: Console | None = None,
) -> None:
    """Talk to a recipe's model.

    Args:
        recipe: its `data.tools` are on offer, its `data.system` is the system turn.
        model: see `locate_model`.
        prompt: answered alone; None: what comes through a pipe, or a conversation in the terminal.
        examples: so many held-out prompts are answered instead.
        tools: ``show`` calls, or run `bash` in the ``sandbox``.
        files: a directory whose files are copied into the sandbox.

    Raises:
        UserError: there is no such model, the prompt is empty or no UTF-8, or the files cannot be used.
    """
    if tools not in get_args(ToolMode):
        choices = list(get_args(ToolMode))
        raise UserError(f"--tools is '{tools}'; it must be one of {', '.join(choices)}{did_you_mean(tools, choices)}")
    mode: ToolMode = "sandbox" if tools == "sandbox" else "show"
    prompts = _prompts(recipe, prompt, examples, mode)
    offered = load_tools(recipe.data.tools) if recipe.data.tools else None
    terminal = Terminal(console or Console(highlight=False))
    if files is not None and mode != "sandbox":
        raise UserError("--files goes with --tools sandbox: nothing runs otherwise")
    with closing(LocalTools(mode, read_files(files) if files else None)) as local_tools:
        policy = open_policy(locate_model(recipe, model))
        sessions = _session_maker(recipe, policy, offered, local_tools)
        if prompts is None:
            _converse(sessions, terminal, mode)
        else:
            for text in prompts:
                _answer(sessions(), text, terminal, echo=examples > 0)


def _prompts(recipe: Recipe, prompt: str | None, examples: int, mode: ToolMode) -> list[str] | None:
    """Return what is to be answered, None for a conversation."""
    if examples:
        return example_prompts(recipe, examples, mode)
    if prompt is None and sys.stdin.isatty():
        return None
    text = piped_text() if prompt is None else checked_text(prompt, "--prompt")
    if not text.strip():
        raise UserError("the prompt is empty; give --prompt TEXT, or pipe some text in")
    return [text.rstrip("\n")]


def example_prompts(recipe: Recipe, count: int, mode: ToolMode = "show") -> list[str]:
    """Return the opening prompts of ``count`` held-out conversations, evenly spread over the files.

    With the sandbox they are such that `bash` answers: the other tools need agents that are not here.
    """
    asked = [q for q in load_questions(recipe) if _is_opening(q.context)]
    if mode == "sandbox":
        asked = [q for q in asked if all(call["function"]["name"] == "bash" for call in q.expected)]
    prompts = list(dict.fromkeys(q.context[-1]["content"] for q in asked))
    if count > len(prompts):
        raise UserError(f"there are {len(prompts)} held-out prompts, not {count}")
    return [prompts[index * len(prompts) // count] for index in range(count)]


def _is_opening(context: list[dict[str, Any]]) -> bool:
    return [message["role"] for message in context if message["role"] != "system"] == ["user"]


def _session_maker(
    recipe: Recipe, policy: Policy, offered: ToolSet | None, local_tools: LocalTools
) -> Callable[[], ChatSession]:
    return lambda: ChatSession(policy, offered, recipe.data.system, local_tools, Sampling(MAX_NEW_TOKENS))


def _answer(session: ChatSession, text: str, terminal: Terminal, echo: bool = False) -> None:
    if echo:
        terminal.note(f"> {text}", "bold")
    outcome = session.ask(text, terminal)
    terminal.end_line()
    if outcome in ENDINGS:
        terminal.note(f"[{ENDINGS[outcome]}]", "yellow")
    if echo:
        terminal.console.print()


def _converse(sessions: Callable[[], ChatSession], terminal: Terminal, mode: ToolMode) -> None:
    """Read and answer until Ctrl-D, or Ctrl-C twice at the prompt: the first may have been meant for an answer."""
    session = sessions()
    read = typed_reader()
    terminal.note(
        f"{session.policy.label}; /new starts a new conversation, Ctrl-C stops an answer, Ctrl-D quits", "dim"
    )
    if mode == "sandbox":
        terminal.note(isolation(), "dim")
    leaving = False
    while True:
        try:
            text = read()
            leaving = False
            if command := COMMAND.match(text):
                if command[0] == "/quit":
                    return
                session = sessions() if command[0] == "/new" else session
                _tell_command(command[0], terminal)
            elif text.strip():
                _answer(session, text.strip(), terminal)
        except UserError as error:
            terminal.note(str(error), "red")
        except EOFError:
            terminal.console.print()
            return
        except KeyboardInterrupt:
            terminal.console.print()
            if leaving:
                return
            leaving = True
            terminal.note("Ctrl-C again, or Ctrl-D, quits", "dim")


def _tell_command(name: str, terminal: Terminal) -> None:
    if name == "/new":
        terminal.note("a new conversation", "dim")
        return
    if name not in COMMANDS:
        terminal.note(f"there is no command {name}{did_you_mean(name, list(COMMANDS))}", "red")
    known = ", ".join(f"{command} {meaning}" for command, meaning in COMMANDS.items())
    terminal.note(f"{known}; put a space before a message that begins like a command", "dim")
