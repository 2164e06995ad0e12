"""A session's messages, rounds and interruptions, with scripted answers and with a real model in a real sandbox."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agentforge.data.tools import ToolSet
from agentforge.environments.sandbox.sandbox import isolation_problem
from agentforge.errors import UserError
from agentforge.evaluation.evaluate import load_questions
from agentforge.models.locate_model import locate_path
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe
from agentforge.rollouts.policies.base import Conversation, Sampling
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.serving import chat as chat_module
from agentforge.serving.chat import Terminal, chat, example_prompts
from agentforge.serving.chat_session import ChatSession, Listener
from agentforge.serving.local_tools import LocalTools, read_files
from agentforge.serving.turns import Delta

needs_sandbox = pytest.mark.skipif(isolation_problem() is not None, reason=str(isolation_problem()))


def called(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class Heard(Listener):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def delta(self, delta: Delta) -> None:
        self.events.append(delta)

    def call(self, call: dict[str, Any], problem: str | None) -> None:
        self.events.append(("call", (call["function"]["name"], problem)))

    def result(self, call: dict[str, Any], text: str) -> None:
        self.events.append(("result", text))

    def problem(self, text: str) -> None:
        self.events.append(("problem", text))

    def of(self, kind: str) -> list[Any]:
        return [value for name, value in self.events if name == kind]


@pytest.fixture
def tools(two_tools: list[dict[str, Any]]) -> ToolSet:
    remote = {"type": "function", "function": {"name": "remote", "parameters": {"type": "object"}}}
    return ToolSet("three", [*two_tools, remote])


@pytest.fixture
def local_tools(request: pytest.FixtureRequest) -> Iterator[LocalTools]:
    opened = LocalTools(getattr(request, "param", "show"))
    yield opened
    opened.close()


def scripted(*answers: str) -> ScriptedPolicy:
    """Answers by how many turns the assistant has had."""
    return ScriptedPolicy(lambda c: answers[sum(m["role"] == "assistant" for m in c.messages) % len(answers)])


def session_of(policy: Any, tools: ToolSet | None, local_tools: LocalTools, **options: Any) -> ChatSession:
    return ChatSession(policy, tools, "Be AJ.", local_tools, Sampling(500), **options)


def test_thinking_goes_on_and_the_history_is_a_conversation(tools: ToolSet, local_tools: LocalTools) -> None:
    session = session_of(scripted("Wait.\n" + called("think", thought="hm"), "Done."), tools, local_tools)
    heard = Heard()
    assert session.ask("Go", heard) == "answered"
    assert [m["role"] for m in session.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert session.messages[2]["content"] == "Wait." and session.messages[3] == {
        "role": "tool",
        "name": "think",
        "content": "",
    }
    assert "".join(heard.of("content")) == "Wait.Done."


def test_showing_runs_nothing_and_ends_the_turn(tools: ToolSet, local_tools: LocalTools) -> None:
    session = session_of(scripted(called("bash", command="touch /tmp/never"), "later"), tools, local_tools)
    heard = Heard()
    assert session.ask("Go", heard) == "calls"
    assert heard.of("call") == [("bash", None)] and "not executed" in heard.of("result")[0]
    assert session.ask("And?", heard) == "answered", "the conversation goes on after an unexecuted call"


def test_other_tools_are_not_available_here(tools: ToolSet, local_tools: LocalTools) -> None:
    heard = Heard()
    assert session_of(scripted(called("remote")), tools, local_tools).ask("Go", heard) == "calls"
    assert heard.of("result") == ["remote is not available here"]


def test_a_wrong_call_is_told_to_the_model_and_never_run(tools: ToolSet, local_tools: LocalTools) -> None:
    heard = Heard()
    session = session_of(scripted(called("bash", cmd="x"), called("shell"), "I give up."), tools, local_tools)
    assert session.ask("Go", heard) == "answered"
    assert [problem is not None for _, problem in heard.of("call")] == [True, True]
    assert all(text.startswith("error: ") for text in heard.of("result"))


def test_unreadable_calls_are_text(tools: ToolSet, local_tools: LocalTools) -> None:
    heard = Heard()
    session = session_of(scripted("<tool_call>\n{oops\n</tool_call>"), tools, local_tools)
    assert session.ask("Go", heard) == "answered"
    assert len(heard.of("problem")) == 1 and "oops" in session.messages[-1]["content"]
    assert "tool_calls" not in session.messages[-1]


def test_calling_for_ever_is_stopped(tools: ToolSet, local_tools: LocalTools) -> None:
    session = session_of(scripted(called("think", thought="more")), tools, local_tools, max_rounds=3)
    assert session.ask("Go", Heard()) == "limit"
    assert sum(m["role"] == "assistant" for m in session.messages) == 3


def test_an_answer_that_is_cut_is_said(local_tools: LocalTools) -> None:
    session = ChatSession(scripted("a long answer"), None, None, local_tools, Sampling(4))
    assert session.ask("Go", Heard()) == "cut"


def test_interrupting_keeps_what_was_said(local_tools: LocalTools) -> None:
    class Impatient(Heard):
        def delta(self, delta: Delta) -> None:
            super().delta(delta)
            if "three" in "".join(self.of("content")):
                raise KeyboardInterrupt

    session = ChatSession(scripted("one two three four five", "Second."), None, None, local_tools, Sampling(500))
    assert session.ask("Count", Impatient()) == "interrupted"
    assert session.messages[-1]["content"].startswith("one two three")
    assert "five" not in session.messages[-1]["content"]
    assert session.ask("Again", Heard()) == "answered"


class Broken(LocalTools):
    def run(self, call: dict[str, Any]) -> tuple[str, bool]:
        raise self.failure

    def __init__(self, failure: BaseException) -> None:
        super().__init__()
        self.failure = failure


@pytest.mark.parametrize("failure", [ValueError("embedded null byte"), UnicodeError(), UserError("no sandbox")])
def test_whatever_a_tool_raises_is_its_result(tools: ToolSet, failure: Exception) -> None:
    """A command with a NUL in it ended the chat and took the user's turn back."""
    session = session_of(scripted(called("bash", command="echo \0"), "I see."), tools, Broken(failure))
    heard = Heard()
    assert session.ask("Go", heard) == "answered"
    (result,) = heard.of("result")
    assert result.startswith("error: bash failed: ") and (str(failure) or type(failure).__name__) in result
    assert [m["role"] for m in session.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert session.messages[3]["content"] == result, "the model reads it too"


def test_a_schema_that_cannot_be_evaluated_is_the_models_to_read(local_tools: LocalTools) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}
    tools = ToolSet("bad", [{"type": "function", "function": {"name": "think", "parameters": schema}}])
    heard = Heard()
    session = session_of(scripted(called("think", a=1), "Well."), tools, local_tools)
    assert session.ask("Go", heard) == "answered"
    assert "cannot be checked" in heard.of("result")[0]


def test_ctrl_c_between_a_turn_and_its_tool_stops_the_answer(tools: ToolSet, local_tools: LocalTools) -> None:
    class Impatient(Heard):
        def call(self, call: dict[str, Any], problem: str | None) -> None:
            raise KeyboardInterrupt

    session = session_of(scripted(called("think", thought="hm"), "Second."), tools, local_tools)
    assert session.ask("Go", Impatient()) == "interrupted"
    assert session.messages[1]["content"] == "Go", "the user's turn stays"
    assert session.ask("And?", Heard()) == "answered"


def test_a_refused_question_leaves_the_conversation_as_it_was(
    talking_checkpoint: Path, local_tools: LocalTools
) -> None:
    policy = open_policy(locate_path(str(talking_checkpoint)), context_length=60)
    session = ChatSession(policy, None, None, local_tools, Sampling(8))
    with pytest.raises(UserError, match="reads 60"):
        session.ask("word " * 200, Heard())
    assert session.messages == []


@needs_sandbox
@pytest.mark.parametrize("local_tools", ["sandbox"], indirect=True)
def test_a_real_model_calls_bash_in_the_sandbox(
    talking_checkpoint: Path, two_tools: Any, local_tools: LocalTools
) -> None:
    policy = open_policy(locate_path(str(talking_checkpoint)))
    session = ChatSession(policy, ToolSet("two", two_tools), "You are AJ.", local_tools, Sampling(60))
    heard = Heard()
    assert session.ask("Say seven", heard) == "answered"
    assert heard.of("result") == ["seven"], "the command was really executed"
    assert session.messages[-1]["content"] == "It says seven – fertig 🙂."


@needs_sandbox
@pytest.mark.parametrize("local_tools", ["sandbox"], indirect=True)
def test_the_sandbox_keeps_files_between_calls_and_tells_failures(local_tools: LocalTools) -> None:
    def run(command: str, **more: Any) -> str:
        return local_tools.run({"function": {"name": "bash", "arguments": {"command": command, **more}}})[0]

    assert run("echo a > f") == ""
    assert run("cat f; echo b >&2; exit 3") == "a\nb\n[exit code 3]"
    assert run("sleep 30", timeout=1) == "[timed out]"


@needs_sandbox
def test_files_are_copied_into_the_sandbox_and_stay_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.ini").write_text("port = 80\n")
    with closing(LocalTools("sandbox", read_files(tmp_path))) as tools:
        call = {"function": {"name": "bash", "arguments": {"command": "cat conf/app.ini; rm conf/app.ini; ls conf"}}}
        assert tools.run(call) == ("port = 80", True)
    assert (tmp_path / "conf" / "app.ini").read_text() == "port = 80\n"


def test_only_text_is_copied_into_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="text files only"):
        read_files(tmp_path)


# -- the terminal ---------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path: Path, talking_checkpoint: Path, learnt_conversations: Any, two_tools: Any) -> Recipe:
    rows = [json.dumps({"messages": messages, "tools": two_tools}) for messages in learnt_conversations]
    (tmp_path / "heldout.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return Recipe.model_validate(
        {
            "name": "T",
            "output_dir": str(tmp_path / "runs"),
            "model": {"path": str(talking_checkpoint)},
            "data": {"system": "You are AJ."},
            "evaluate": {"tool_calls": {"prompts": str(tmp_path / "heldout.jsonl")}},
        }
    )


@pytest.fixture
def said() -> Callable[..., str]:
    def run(*arguments: Any, **options: Any) -> str:
        written = io.StringIO()
        chat(*arguments, console=Console(file=written, width=60), **options)
        return written.getvalue()

    return run


def test_one_shot_answers_a_prompt_or_a_pipe(
    recipe: Recipe,
    said: Callable[..., str],
    talking_checkpoint: Path,
    two_tools: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "configs" / "tools").mkdir(parents=True)
    (tmp_path / "configs" / "tools" / "two.yaml").write_text(json.dumps([tool["function"] for tool in two_tools]))
    monkeypatch.chdir(tmp_path)
    with_tools = recipe.model_copy(update={"data": recipe.data.model_copy(update={"tools": "two"})})
    path = str(talking_checkpoint)
    assert said(with_tools, path, prompt="Hello") == "Hello, I am AJ.\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert said(with_tools, path) == "Hello, I am AJ.\n"
    assert '→ bash(command="echo seven")' in said(with_tools, path, prompt="Say seven")
    shown = said(with_tools, path, examples=1)
    assert shown.startswith("> Say seven\n") and "→ bash" in shown
    assert example_prompts(recipe, 1) == ["Say seven"]


def test_examples_for_the_sandbox_are_those_that_bash_answers() -> None:
    recipe = load_recipe("aj", [], "tiny")
    questions = {q.context[-1]["content"]: q for q in load_questions(recipe)}
    tools = {c["function"]["name"] for text in example_prompts(recipe, 12) for c in questions[text].expected}
    assert len(tools) > 1
    for text in example_prompts(recipe, 12, "sandbox"):
        assert {call["function"]["name"] for call in questions[text].expected} == {"bash"}


def test_a_conversation_in_the_terminal_goes_on_until_the_input_ends(
    recipe: Recipe, said: Callable[..., str], talking_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Typed(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Typed("\nHello\n/new\nHello\n"))
    asked: list[Conversation] = []
    real = chat_module.open_policy

    def listening(*arguments: Any) -> Any:
        policy = real(*arguments)
        reply = policy.reply
        monkeypatch.setattr(policy, "reply", lambda c, *more: (asked.append(c), reply(c, *more))[1])
        return policy

    monkeypatch.setattr(chat_module, "open_policy", listening)
    text = said(recipe, str(talking_checkpoint))
    assert "/new starts a new conversation" in text
    assert len(asked) == 2 and asked[0].messages is not asked[1].messages


def test_a_terminal_shows_escape_sequences_and_does_not_obey_them() -> None:
    written = io.StringIO()
    terminal = Terminal(Console(file=written, force_terminal=True, color_system=None))
    terminal.delta(("content", "a\x1b[2Jb\tc\r\n\ud800"))
    terminal.result({}, "\x1b]52;c;aGk=\x07\x9b")
    assert "\x1b" not in written.getvalue() and "\x9b" not in written.getvalue()
    assert "a␛[2Jb" in written.getvalue() and "␛]52;c;aGk=␇\ufffd" in written.getvalue()


def test_ctrl_c_at_the_prompt_leaves_and_closes_the_tools(
    recipe: Recipe, talking_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Typing(io.StringIO):
        def isatty(self) -> bool:
            return True

        def readline(self, size: int = -1) -> str:
            raise KeyboardInterrupt

    closed: list[bool] = []
    monkeypatch.setattr("sys.stdin", Typing())
    monkeypatch.setattr(LocalTools, "close", lambda self: closed.append(True))
    chat(recipe, str(talking_checkpoint), console=Console(file=io.StringIO()))
    assert closed == [True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"prompt": "x", "tools": "sandbx"}, "did you mean 'sandbox'"),
        ({"examples": 9}, "there are 1 held-out prompts"),
        ({"prompt": "x", "files": Path("nowhere")}, "--files goes with --tools sandbox"),
        ({"prompt": "x", "files": Path("nowhere"), "tools": "sandbox"}, "there is no such directory"),
    ],
)
def test_what_cannot_be_answered_is_said_before_the_model_is_loaded(
    recipe: Recipe, said: Callable[..., str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        said(recipe, "/nowhere", **options)
