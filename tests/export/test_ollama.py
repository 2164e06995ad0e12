"""What Ollama makes of our Modelfile, for twenty conversations: the prompt that the model was trained on."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from agentforge.data.chat_template import render
from agentforge.data.own_template import MARKERS, template_source
from agentforge.export.ollama import modelfile

from .go_templates import Template, go_json, read_modelfile

SYSTEM = "You are AJ."
BASH = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": 'Run a "command" & see <stdout>.',
        "parameters": {
            "type": "object",
            "required": ["command"],
            "properties": {"command": {"type": "string", "description": "a && b"}},
        },
    },
}
BARE = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def says(text: str, *calls: tuple[str, dict[str, Any]], thinking: str = "") -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    return message


def result(text: str) -> dict[str, Any]:
    return {"role": "tool", "name": "bash", "content": text}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


LS = ("bash", {"command": "ls"})
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "one question": ([user("Hello")], []),
    "a system turn": ([system("Be brief."), user("Hello")], []),
    "three turns": ([user("a"), says("b"), user("c")], []),
    "tools": ([user("List them")], [BASH, BARE]),
    "tools and a system turn": ([system("Be brief."), user("List them")], [BASH]),
    "a call": ([user("List"), says("", LS), result("a\nb"), says("Two."), user("And?")], [BASH]),
    "words and a call": ([user("List"), says("I look.", LS), result("a"), user("And?")], [BASH]),
    "two calls": ([user("List"), says("", LS, ("now", {})), result("a"), result("noon")], [BASH, BARE]),
    "words and three calls": ([user("List"), says("So:", LS, LS, LS), result("a"), result("b"), result("c")], [BASH]),
    "no arguments": ([user("Time?"), says("", ("now", {})), result("noon")], [BARE]),
    "characters that Go's JSON escapes": (
        [user("x"), says("", ("bash", {"command": "a && b <c >d 2>&1 | grep '<&>'"})), result("<&>")],
        [BASH],
    ),
    "quotes and backslashes": (
        [user('say "hi"'), says("", ("bash", {"command": 'printf "%s\\n" "a\\tb"\nend\t"""'})), result('"""')],
        [BASH],
    ),
    "values of every kind": (
        [
            user("x"),
            says("", ("bash", {"a": 1, "b": 2.5, "c": True, "d": None, "e": [1, ["<"], {}], "f": {"g": "&"}})),
            result("ok"),
        ],
        [BASH],
    ),
    "large and negative numbers": (
        [user("x"), says("", ("bash", {"a": 1000000, "b": -3, "c": 0, "d": 12345678})), result("ok")],
        [BASH],
    ),
    "other scripts": ([user("größer 你好 🙂"), says("", ("bash", {"ключ": "naïve – 🙂"})), result("日本")], [BASH]),
    "reasoning": ([user("6*7?"), says("42", thinking="six times seven"), user("And 7*7?")], []),
    "reasoning and a call": ([user("x"), says("", LS, thinking="I must look.\nTwice."), result("a")], [BASH]),
    "reasoning, words and a call": ([user("x"), says("So:", LS, thinking="hm"), result("a"), user("y")], [BASH]),
    "template syntax in a message": ([user("{{ .System }} {{- end }}"), says("{% x %}"), user("$last")], []),
    "empty answers": ([user("x"), says("y"), user("")], []),
}


def data(messages: list[dict[str, Any]], tools: list[dict[str, Any]], default: str | None) -> dict[str, Any]:
    """Return what Ollama gives a template: Modelfile's SYSTEM where there is no system turn, Go's names."""
    given = "\n\n".join(m["content"] for m in messages if m["role"] == "system") or (default or "")
    turns = [
        {
            "Role": message["role"],
            "Content": message["content"],
            "Thinking": message.get("reasoning_content", ""),
            "ToolCalls": [
                {"Function": {"Name": call["function"]["name"], "Arguments": call["function"]["arguments"]}}
                for call in message.get("tool_calls", [])
            ],
        }
        for message in messages
    ]
    offered = [
        {
            "Function": {
                "Name": tool["function"]["name"],
                "Description": tool["function"].get("description", ""),
                "Parameters": tool["function"]["parameters"],
            }
        }
        for tool in tools
    ]
    return {"System": given, "Messages": turns, "Tools": offered}


def trained(tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
    """Return what the model was trained on; of the tools' parameters, what Ollama can only write as Go's JSON."""
    messages = messages if messages[0]["role"] == "system" else [system(SYSTEM), *messages]
    text = render(tokenizer, [sorted_arguments(m) for m in messages], tools or None, add_generation_prompt=True)
    for tool in tools:
        parameters = tool["function"]["parameters"]
        text = text.replace(json.dumps(parameters, ensure_ascii=False), go_json(parameters))
    return text


def sorted_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = json.loads(json.dumps(message.get("tool_calls", []), sort_keys=True))
    return message | ({"tool_calls": calls} if calls else {})


@pytest.fixture
def reader(tokenizer: PreTrainedTokenizerFast, request: pytest.FixtureRequest) -> Any:
    """A tokenizer with our template for the turn markers that the test asks for."""
    kind = getattr(request, "param", "chatml")
    own = copy.deepcopy(tokenizer)
    own.add_tokens([AddedToken(marker, special=True) for marker in MARKERS[kind].tokens])
    own.chat_template = template_source(kind)
    return kind, own


@pytest.mark.parametrize("reader", sorted(MARKERS), indirect=True)
def test_twenty_conversations(reader: Any) -> None:
    kind, tokenizer = reader
    assert len(CONVERSATIONS) == 20
    commands = dict(read_modelfile(modelfile("x.gguf", kind, ["stop"], 4096, SYSTEM, "mit", begin=True)))
    template = Template(commands["template"])
    for name, (messages, tools) in CONVERSATIONS.items():
        assert template.execute(data(messages, tools, commands["system"])) == trained(tokenizer, messages, tools), name


def test_a_last_assistant_turn_is_continued(reader: Any) -> None:
    kind, tokenizer = reader
    template = Template(dict(read_modelfile(modelfile("x.gguf", kind, [], 4096, None, None)))["template"])
    text = template.execute(data([user("a"), says("It beg")], [], SYSTEM))
    assert text == trained(tokenizer, [user("a")], []) + "It beg"


@pytest.mark.parametrize(
    "prompt",
    [
        "Plain.",
        'It says "hi" and ends in quotes: ""',
        'Use\n"""\ndocstrings\n"""\nplease',
        'ends """',
        "a\u00a0space that is not printable, \u200b, and a family 👨\u200d👩\u200d👧",
        "  blanks \t and\n\n lines \n",
        "{{ .Tools }} and \\n and \\u0041",
        "\x1b[1mbold\x1b[0m",
    ],
)
def test_every_system_prompt_survives_the_modelfile(reader: Any, prompt: str) -> None:
    """A block has no escapes: three quotation marks at a line's end close it, and unprintable characters are lost."""
    kind, tokenizer = reader
    commands = dict(read_modelfile(modelfile("x.gguf", kind, ["<|im_end|>"], 4096, prompt, 'a "license"\n"""\nx')))
    assert set(commands) == {"from", "template", "stop", "num_ctx", "temperature", "repeat_penalty", "license"} | (
        {"system"} & set(commands)
    )
    text = Template(commands["template"]).execute(data([user("Hello")], [BASH], commands.get("system")))
    assert text == trained(tokenizer, [system(prompt), user("Hello")], [BASH])
    # a system turn of the conversation wins
    text = Template(commands["template"]).execute(data([system("Mine."), user("x")], [], commands.get("system")))
    assert text == trained(tokenizer, [system("Mine."), user("x")], [])


def test_decoding_is_that_of_chat_and_serve() -> None:
    commands = dict(read_modelfile(modelfile("x.gguf", "chatml", ["<|im_end|>"], 4096, None, None)))
    assert (commands["temperature"], commands["repeat_penalty"], commands["num_ctx"]) == ("0", "1", "4096")


@pytest.mark.parametrize("kind", sorted(MARKERS))
def test_what_ollama_looks_for_stands_bare(kind: str) -> None:
    """It reads the tags of calls and of reasoning from the texts of the template, not from what its actions write."""
    commands = dict(read_modelfile(modelfile("x.gguf", kind, [], 4096, None, None)))
    template = Template(commands["template"])

    def texts(nodes: list[Any]) -> list[str]:
        return [t for n in nodes for t in ([n.text] if n.kind == "text" else [*texts(n.body), *texts(n.other)])]

    assert texts(template.root) == ["<think>", "</think>", "<tool_call>"]
    calls = next(n for n in flat(template.root) if n.kind == "if" and n.text == ".ToolCalls")
    assert calls.body[0].kind == "range" and calls.body[0].body[0].text == "<tool_call>", "nothing comes before it"
    thinking = next(n for n in flat(template.root) if n.kind == "if" and n.text == ".Thinking")
    assert (thinking.body[0].text, thinking.body[-1].text) == ("<think>", "</think>")


def flat(nodes: list[Any]) -> list[Any]:
    return [m for n in nodes for m in (n, *flat(n.body), *flat(n.other))]


PROGRAM = """package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type args map[string]any

func (a args) String() string { b, _ := json.Marshal(a); return string(b) }

type call struct{ Function struct { Name string; Arguments args } }

type input struct {
	Template string
	Data     []struct {
		System   string
		Messages []*struct { Role, Content, Thinking string; ToolCalls []call }
		Tools    []struct { Function struct { Name, Description string; Parameters any } }
	}
}

func main() {
	var in input
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil { panic(err) }
	marshal := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	empty := template.New("").Option("missingkey=zero").Funcs(template.FuncMap{"json": marshal})
	t := template.Must(empty.Parse(in.Template))
	out := []string{}
	for _, d := range in.Data {
		var b strings.Builder
		values := map[string]any{"System": d.System, "Messages": d.Messages, "Tools": d.Tools}
		if err := t.Execute(&b, values); err != nil { panic(err) }
		out = append(out, b.String())
	}
	json.NewEncoder(os.Stdout).Encode(out)
}
"""


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
@pytest.mark.parametrize("reader", sorted(MARKERS), indirect=True)
def test_go_itself_renders_the_same(reader: Any, tmp_path: Path) -> None:
    kind, tokenizer = reader
    template = dict(read_modelfile(modelfile("x.gguf", kind, [], 4096, SYSTEM, None, begin=True)))["template"]
    (tmp_path / "main.go").write_text(PROGRAM)
    cases = [data(messages, tools, SYSTEM) for messages, tools in CONVERSATIONS.values()]
    made = subprocess.run(
        ["go", "run", "main.go"],
        cwd=tmp_path,
        input=json.dumps({"Template": template, "Data": cases}),
        capture_output=True,
        text=True,
        check=True,
    )
    for (name, (messages, tools)), text in zip(CONVERSATIONS.items(), json.loads(made.stdout), strict=True):
        assert text == trained(tokenizer, messages, tools), name
