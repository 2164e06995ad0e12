"""The registry of tools and its check of calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentforge.data.tools import load_tools
from agentforge.errors import UserError


def test_aj_has_its_six_tools() -> None:
    tools = load_tools("aj")
    assert tools.names == ["bash", "remote_bash", "remote_bash_all", "list_agents", "think", "complete"]
    assert all(schema["type"] == "function" and schema["function"]["description"] for schema in tools.schemas)


@pytest.mark.parametrize(
    "call",
    [
        {"name": "bash", "arguments": {"command": "ls"}},
        {"type": "function", "function": {"name": "remote_bash", "arguments": '{"agent": "web", "command": "ls"}'}},
        {"name": "remote_bash_all", "arguments": {"pattern": "prod-*", "command": "uptime"}},
        {"name": "list_agents"},
        {"name": "think", "arguments": {"thought": "first the logs"}},
        {"name": "complete", "arguments": {"summary": "done", "success": True}},
    ],
)
def test_right_calls_pass(call: dict) -> None:
    assert load_tools("aj").check(call) is None


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ({"name": "bsh", "arguments": {}}, "no tool 'bsh'; did you mean 'bash'"),
        ({"name": "bash", "arguments": {}}, "'command' is a required property"),
        ({"name": "bash", "arguments": {"command": 3}}, "bash: command: 3 is not of type 'string'"),
        ({"name": "bash", "arguments": {"command": "ls", "cwd": "/"}}, "'cwd' was unexpected"),
        ({"name": "bash", "arguments": {"command": "ls", "timeout": 0}}, "timeout"),
        ({"name": "bash", "arguments": "ls"}, "Expecting value"),
        ({"arguments": {"command": "ls"}}, "has no name"),
    ],
)
def test_wrong_calls_are_explained(call: dict, problem: str) -> None:
    assert problem in (load_tools("aj").check(call) or "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}", "is a list of tools"),
        ("- {name: a, description: b}", "exactly the keys"),
        ("- {name: a, description: b, parameters: {type: strin}}", "not a JSON schema"),
        ("- {name: a, description: b, parameters: {type: string}}", "must be of type object"),
        ("- {name: 1, description: b, parameters: {type: object}}", "must be text"),
        ("- &t {name: a, description: b, parameters: {type: object}}\n- *t", "is defined twice"),
    ],
)
def test_broken_registries_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    (tmp_path / "configs" / "tools").mkdir(parents=True)
    (tmp_path / "configs" / "tools" / "mine.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=problem):
        load_tools("mine")


def test_an_unknown_registry_names_those_there_are() -> None:
    with pytest.raises(UserError, match="there is no tools 'ajj'; did you mean 'aj'"):
        load_tools("ajj")
