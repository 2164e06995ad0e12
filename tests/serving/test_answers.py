"""What a request asks of the answer, through OpenAI's own client: for a checkpoint and a GGUF, whole and streamed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from agentforge.models.locate_model import locate_path
from agentforge.rollouts.policies.open_policy import open_policy
from agentforge.rollouts.policies.scripted import ScriptedPolicy

from .live import ask, client_of, running

CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls </tool_call>"}}\n</tool_call>'
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "<tool_call>": {"type": "boolean"}},
    "required": ["colour", "<tool_call>"],
    "additionalProperties": False,
}


@pytest.fixture
def grammars() -> None:
    pytest.importorskip("llguidance", reason="needs the extra `grammars`")


def needs_grammars(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.usefixtures("grammars")(test)


def assembled(chunks: list[Any]) -> dict[int, dict[str, Any]]:
    """Return the choices of a stream: what a client makes of it."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for part in chunk.choices:
            choice = choices.setdefault(part.index, {"content": "", "calls": [], "tokens": [], "reason": None})
            choice["content"] += part.delta.content or ""
            choice["calls"] += [(c.function.name, c.function.arguments) for c in part.delta.tool_calls or []]
            choice["tokens"] += part.logprobs.content if part.logprobs else []
            choice["reason"] = part.finish_reason or choice["reason"]
    return choices


def whole_and_streamed(client: openai.OpenAI, content: str, tools: Any = openai.omit, **options: Any) -> list[Any]:
    """Return the choices of a whole answer, after checking that the stream says the same."""
    whole = ask(client, content, tools, **options)
    streamed = assembled(list(ask(client, content, tools, stream=True, **options)))
    assert len(whole.choices) == len(streamed)
    for choice in whole.choices:
        same = streamed[choice.index]
        calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
        assert (same["content"], same["calls"]) == (choice.message.content or "", calls)
        assert same["reason"] == choice.finish_reason
        tokens = choice.logprobs.content if choice.logprobs else []
        assert [token.token for token in same["tokens"]] == [token.token for token in tokens]
        # llama.cpp reads the prompt again from where it differs, in other pieces than before
        assert [t.logprob for t in same["tokens"]] == pytest.approx([t.logprob for t in tokens], abs=1e-3)
    return list(whole.choices)


def test_several_choices_have_each_their_own_seed(client: openai.OpenAI) -> None:
    drawn = {"temperature": 2.0, "max_tokens": 8}
    choices = whole_and_streamed(client, "Something", n=3, seed=4, **drawn)
    assert [choice.index for choice in choices] == [0, 1, 2]
    assert len({choice.message.content for choice in choices}) > 1
    assert ask(client, "Something", seed=5, **drawn).choices[0].message.content == choices[1].message.content
    one, two = (ask(client, "Hello", n=n, max_tokens=3).usage for n in (1, 2))
    assert two.completion_tokens == 2 * one.completion_tokens and two.prompt_tokens == one.prompt_tokens


def test_logprobs_are_those_of_the_model(client: openai.OpenAI, two_tools: Any) -> None:
    (choice,) = whole_and_streamed(client, "Hello", two_tools, logprobs=True, top_logprobs=3)
    assert choice.message.content == "Hello, I am AJ.", "asking changes nothing"
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == "Hello, I am AJ."
    assert bytes(byte for token in tokens for byte in token.bytes).decode() == "Hello, I am AJ."
    for token in tokens:
        assert len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token
        assert token.logprob == token.top_logprobs[0].logprob and -0.5 < token.logprob <= 0
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1 + 1e-6
    drawn = {"temperature": 2.0, "seed": 3, "max_tokens": 9}
    (sampled,) = whole_and_streamed(client, "Something", logprobs=True, **drawn)
    assert sampled.message.content == ask(client, "Something", **drawn).choices[0].message.content
    assert all(token.top_logprobs == [] for token in sampled.logprobs.content)


def test_logprobs_end_where_the_text_ends(client: openai.OpenAI, two_tools: Any) -> None:
    (stopped,) = whole_and_streamed(client, "Hello", two_tools, logprobs=True, stop=[" am"])
    assert "".join(token.token for token in stopped.logprobs.content) == "Hello, I"
    (called,) = whole_and_streamed(client, "Say seven", two_tools, logprobs=True)
    assert called.message.tool_calls and "echo seven" in "".join(token.token for token in called.logprobs.content)


@pytest.mark.parametrize("option", [{"top_k": 1}, {"min_p": 1.0}])
def test_a_narrow_filter_leaves_the_likeliest_token(
    client: openai.OpenAI, option: dict[str, Any], two_tools: Any
) -> None:
    answer = ask(client, "Hello", two_tools, temperature=2.0, seed=1, extra_body=option)
    assert answer.choices[0].message.content == "Hello, I am AJ."
    free = ask(client, "Hello", two_tools, temperature=2.0, seed=1, max_tokens=20)
    assert free.choices[0].message.content != "Hello, I am AJ."


def test_a_repetition_penalty_changes_what_is_likeliest(client: openai.OpenAI, two_tools: Any) -> None:
    answer = ask(client, "Hello", two_tools, max_tokens=12, extra_body={"repetition_penalty": 10.0})
    assert answer.choices[0].message.content != "Hello, I am AJ."


def test_one_call_at_a_time() -> None:
    with running(ScriptedPolicy(lambda _: f"Now.\n{CALL}\n{CALL} and more", label="talking")) as url:
        client = client_of(url)
        (both,) = whole_and_streamed(client, "x")
        assert len(both.message.tool_calls) == 2
        (one,) = whole_and_streamed(client, "x", parallel_tool_calls=False)
    (call,) = one.message.tool_calls
    assert json.loads(call.function.arguments) == {"command": "ls </tool_call>"}, "a quoted tag closes nothing"
    assert (one.message.content, one.finish_reason) == ("Now.", "tool_calls")


def test_a_policy_without_logits_says_so() -> None:
    with running(ScriptedPolicy(lambda _: "x", label="talking")) as url:
        with pytest.raises(openai.BadRequestError, match="does not expose its logits"):
            ask(client_of(url), "x", logprobs=True)
        with pytest.raises(openai.BadRequestError, match="cannot be held to a grammar") as refused:
            ask(client_of(url), "x", response_format={"type": "json_object"})
    assert refused.value.param == "response_format"


def test_without_llguidance_the_extra_is_named(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "agentforge.rollouts.policies.transformers_policy.TransformersPolicy.grammar_tokenizer", _missing
    )
    monkeypatch.setattr("agentforge.rollouts.policies.gguf_policy.GGUFPolicy.grammar_tokenizer", _missing)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(openai.BadRequestError, match=r"pip install agentforge-train\[grammars\]") as refused:
        ask(client, "x", response_format={"type": "json_object"})
    assert refused.value.param == "response_format"


def _missing(_: Any) -> None:
    from agentforge.rollouts.policies.constraints import require_llguidance

    require_llguidance()


@needs_grammars
@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.5, "seed": 2}])
def test_json_of_a_schema(client: openai.OpenAI, drawn: dict[str, Any]) -> None:
    """Tags in it stay as they are: in JSON a backslash is JSON's own."""
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "schema": COLOUR, "strict": True}}
    (choice,) = whole_and_streamed(client, "Which colour?", response_format=wanted, logprobs=True, **drawn)
    assert json.loads(choice.message.content)["colour"] in ("red", "green")
    assert "<tool_call>" in json.loads(choice.message.content) and choice.finish_reason == "stop"
    assert "".join(token.token for token in choice.logprobs.content) == choice.message.content


@needs_grammars
def test_a_json_object_and_one_that_is_cut(client: openai.OpenAI) -> None:
    (choice,) = whole_and_streamed(client, "Hello", response_format={"type": "json_object"}, max_tokens=30)
    assert choice.message.content.startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content), dict)
    (cut,) = whole_and_streamed(client, "Hello", response_format={"type": "json_object"}, max_tokens=1)
    assert (cut.message.content, cut.finish_reason) == ("{", "length")


@needs_grammars
def test_the_clients_own_parsing(client: openai.OpenAI) -> None:
    class Colour(BaseModel):
        bright: bool

    messages: Any = [{"role": "user", "content": "Is it bright?"}]
    answer = client.chat.completions.parse(model="talking", messages=messages, response_format=Colour)
    assert isinstance(answer.choices[0].message.parsed, Colour)


@needs_grammars
def test_a_call_that_is_required(client: openai.OpenAI, two_tools: Any) -> None:
    """ "Hello" alone gets words; held to a call, the model makes one, of the tool that is named."""
    options = {"parallel_tool_calls": False, "max_tokens": 150}
    (required,) = whole_and_streamed(client, "Hello", two_tools, tool_choice="required", **options)
    assert required.finish_reason == "tool_calls" and required.message.content is None
    named = {"type": "function", "function": {"name": "think"}}
    (thought,) = whole_and_streamed(client, "Say seven", two_tools, tool_choice=named, **options)
    (call,) = thought.message.tool_calls
    assert call.function.name == "think" and isinstance(json.loads(call.function.arguments)["thought"], str)


@needs_grammars
def test_json_or_a_call(client: openai.OpenAI, two_tools: Any) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "schema": COLOUR}}
    (called,) = whole_and_streamed(client, "Say seven", two_tools, response_format=wanted)
    assert json.loads(called.message.tool_calls[0].function.arguments) == {"command": "echo seven"}
    (answered,) = whole_and_streamed(client, "Hello", two_tools, response_format=wanted, tool_choice="none")
    assert json.loads(answered.message.content)["colour"] in ("red", "green")


@needs_grammars
def test_strict_tools_are_free_to_be_left_alone(client: openai.OpenAI, two_tools: Any) -> None:
    """The path that the model has learnt lies in the grammar, token by token: holding it changes nothing."""
    strict = [tool | {"function": tool["function"] | {"strict": True}} for tool in two_tools]
    (answered,) = whole_and_streamed(client, "Hello", strict)
    assert answered.message.content == "Hello, I am AJ." and not answered.message.tool_calls
    (called,) = whole_and_streamed(client, "Say seven", strict)
    assert json.loads(called.message.tool_calls[0].function.arguments) == {"command": "echo seven"}
    other = [{"type": "function", "function": {"name": "bash", "strict": True, "parameters": COLOUR}}]
    (held,) = whole_and_streamed(client, "Say seven", [*other, two_tools[1]], max_tokens=60)
    for call in held.message.tool_calls or []:
        assert call.function.name == "think" or json.loads(call.function.arguments)["colour"] in ("red", "green")


@needs_grammars
@pytest.mark.parametrize("schema", [{"type": "wizard"}, {"type": "object", "unevaluatedProperties": False, "not": {}}])
def test_a_schema_that_cannot_be_held_to_is_named(client: openai.OpenAI, schema: dict[str, Any]) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError, match="cannot be held to") as refused:
        ask(client, "x", response_format=wanted)
    assert refused.value.param == "response_format.json_schema.schema"
    tool = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"properties": {"a": schema}}}}
    with pytest.raises(openai.BadRequestError, match="cannot be held to") as refused:
        ask(client, "x", [tool])
    assert refused.value.param == "tools[0].function.parameters"


@needs_grammars
def test_a_grammar_does_not_change_the_model_for_others(talking_checkpoint: Any) -> None:
    policy = open_policy(locate_path(str(talking_checkpoint), label="talking"))
    with running(policy) as url:
        ask(client_of(url), "Hello", response_format={"type": "json_object"}, max_tokens=5)
        assert not ask(client_of(url), "Hello", max_tokens=5).choices[0].message.content.startswith("{")
