"""What the server makes of a request's body: read, let through, or refused with the path of the field."""

from __future__ import annotations

import json
import threading
from typing import Any, get_type_hints

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai.types.chat import completion_create_params
from transformers import PreTrainedTokenizerFast

from agentforge.data import chat_template
from agentforge.errors import UserError
from agentforge.rollouts.policies.base import Sampling
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.serving.answering import answer
from agentforge.serving.openai_api import ONLY_DEFAULT, UNREAD, ChatRequest, Response
from agentforge.serving.openai_errors import BadRequest

from ..data.small_tokenizers import chatml_tokenizer
from ..rollouts.players import random_policy

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
USER = {"role": "user", "content": "x"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def read(**fields: Any) -> ChatRequest:
    return ChatRequest.read(json.dumps({"model": "m", "messages": [USER]} | fields).encode())


def call_with(arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": arguments}}]}


def result(identity: str, content: str = "r") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def test_every_field_of_openais_client_is_known() -> None:
    """A new version of the client may bring fields that change the answer: look at them first."""
    fields = set(get_type_hints(completion_create_params.CompletionCreateParamsBase)) | {"stream"}
    assert fields <= {*ChatRequest.model_fields, *UNREAD, *ONLY_DEFAULT}


def test_fields_that_change_nothing_are_let_through() -> None:
    read(user="u", metadata={"a": "b"}, store=True, service_tier="auto", prompt_cache_key="k", safety_identifier="s")
    read(
        frequency_penalty=0, presence_penalty=0.0, logit_bias={}, modalities=["text"], functions=None, n=None, stop=None
    )
    read(stream_options={"include_usage": True, "include_obfuscation": False}, parallel_tool_calls=None)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"foo": 1}, "foo"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop": "x" * 1001}, "stop[0]"),
        ({"stream_options": {"include": True}}, "stream_options.include"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "wizard"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"]}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "system", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": {"text": "x"}}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [USER | {"cache_control": {}}]}, "messages[0].cache_control"),
        ({"messages": [{"role": "assistant", "refusal": "no"}]}, "messages[0].refusal"),
        ({"messages": [USER, call_with("{broken")]}, "messages[1].tool_calls[0].function.arguments"),
        ({"messages": [USER, call_with("[1]")]}, "messages[1].tool_calls[0].function.arguments"),
        ({"messages": [USER, call_with('{"a": "\\ud800"}')]}, "messages[1].tool_calls[0].function.arguments"),
        ({"messages": [USER, call_with('{"a": 1e999}')]}, "messages[1].tool_calls[0].function.arguments"),
        ({"messages": [USER, call_with('{"a":' + "[" * 500)]}, "messages[1].tool_calls[0].function.arguments"),
        ({"messages": [CALLS | {"tool_calls": [{"function": {"name": "f"}}]}]}, "messages[0].tool_calls[0].id"),
        ({"messages": [CALLS | {"tool_calls": [CALL, CALL]}]}, "messages[0].tool_calls[1].id"),
        ({"messages": [CALLS | {"tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls[0].function.name"),
        ({"messages": [result("c")]}, "messages[0]"),
        ({"messages": [CALLS, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [CALLS, result("d")]}, "messages[1].tool_call_id"),
        ({"messages": [CALLS, result("c"), result("c")]}, "messages[2]"),
        ({"messages": [CALLS, USER]}, "messages[0].tool_calls"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f g"}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice.function.name",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(**fields)
    assert refused.value.param == param and str(refused.value).startswith(param)
    assert refused.value.status == 400


def test_a_number_that_python_reads_but_cannot_write_is_refused() -> None:
    body = json.dumps({"model": "m", "messages": [USER]})[:-1] + ', "seed": ' + "9" * 5000 + "}"
    with pytest.raises(BadRequest, match="not valid JSON"):
        ChatRequest.read(body.encode())


def test_results_come_in_the_order_of_their_calls() -> None:
    """The template writes no ids: what comes first is read as the answer to the first call."""
    calls = CALLS | {"tool_calls": [CALL | {"id": "one"}, CALL | {"id": "two"}]}
    messages = read(messages=[USER, calls, result("two", "2"), result("one", "1")]).conversation.messages
    assert [message["content"] for message in messages] == ["x", "", "1", "2"]


def test_the_developer_is_the_system_and_strict_is_not_told() -> None:
    tools = [TOOL | {"function": TOOL["function"] | {"strict": True}}]  # type: ignore[dict-item]
    conversation = read(messages=[{"role": "developer", "content": "s"}, USER], tools=tools).conversation
    assert conversation.messages[0] == {"role": "system", "content": "s"} and list(conversation.tools) == [TOOL]


def test_sampling_takes_every_option() -> None:
    policy = ScriptedPolicy(lambda _: "")
    request = read(temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, repetition_penalty=1.1, seed=7, max_tokens=3)
    assert request.sampling(policy, 2) == Sampling(3, 0.5, 0.9, 9, 5, 0.1, 1.1)
    assert read().sampling(policy).temperature == 0


# -- whatever is sent, an answer or a sentence -----------------------------------------------------------------------

WORDS = ["", "x", "f", "user", "tool", "system", "assistant", "function", "auto", "{}", '{"a": 1}', "<tool_call>", "\0"]
ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(width=16) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=2),
    max_leaves=4,
)


def nearly(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """A right object, of which any field may be missing or anything."""
    return st.fixed_dictionaries({}, optional={name: value | ANY for name, value in fields.items()})


NEARLY_CALL = nearly(
    id=st.sampled_from(["c", "d"]),
    type=st.just("function"),
    function=nearly(name=st.just("f"), arguments=st.sampled_from(WORDS)),
)
NEARLY_MESSAGE = st.sampled_from([USER, CALLS, result("c")]) | nearly(
    role=st.sampled_from(WORDS),
    content=st.text(max_size=3) | st.lists(nearly(type=st.just("text"), text=st.text(max_size=3)), max_size=2),
    tool_calls=st.lists(NEARLY_CALL, max_size=2),
    tool_call_id=st.just("c"),
)
NEARLY_TOOL = nearly(type=st.just("function"), function=nearly(name=st.just("f"), parameters=ANY, strict=st.booleans()))
BODY = nearly(
    model=st.just("m"),
    messages=st.lists(NEARLY_MESSAGE, min_size=1, max_size=3),
    tools=st.lists(NEARLY_TOOL, max_size=2),
    tool_choice=st.sampled_from(WORDS),
    response_format=nearly(type=st.sampled_from(["text", "json_object", "json_schema"]), json_schema=ANY),
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 3),
    stop=st.sampled_from(WORDS),
    logprobs=st.booleans(),
    n=st.integers(1, 2),
    seed=st.integers(),
)


@pytest.fixture(scope="module")
def policy() -> Any:
    tokenizer: PreTrainedTokenizerFast = chatml_tokenizer()
    chat_template.install_template(tokenizer)
    return random_policy(tokenizer)


@given(st.binary(max_size=20) | st.text(max_size=20).map(str.encode))
@example(b"[" * 10**5)
@example(b"\xff")
def test_whatever_bytes_are_sent_are_refused_with_a_sentence(body: bytes) -> None:
    with pytest.raises(BadRequest):
        ChatRequest.read(body)


@settings(max_examples=150, deadline=None)
@given(body=BODY | ANY)
@example(body={"model": "m", "messages": [USER], "tools": [TOOL | {"x": float("nan")}]})
@example(body={"model": "m", "messages": [CALLS, result("c", "\ud800")]})
@example(body={"model": "m", "messages": [USER], "seed": 10**4000, "stop": "\0", "logprobs": True})
def test_whatever_is_sent_gets_an_answer_or_a_sentence(policy: Any, body: Any) -> None:
    fields = {"max_tokens": 2} | body if isinstance(body, dict) else body
    try:
        request = ChatRequest.read(json.dumps(fields).encode())
        choices = answer(policy, request, lambda _: None, threading.Event())
    except UserError as error:
        assert str(error)
        return
    whole = Response("m", bool(request.logprobs)).whole(choices)
    assert json.loads(json.dumps(whole, allow_nan=False))["choices"]
