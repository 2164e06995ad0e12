"""The server, live on loopback, through OpenAI's own client and through plain HTTP."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from agentforge.errors import UserError
from agentforge.rollouts.policies.scripted import ScriptedPolicy
from agentforge.serving import openai_server
from agentforge.serving.openai_server import listen

from .live import ask, client_of, running


def test_lists_its_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["talking"]
    assert client.models.retrieve("talking").id == "talking"
    with pytest.raises(openai.NotFoundError, match="only 'talking'") as refused:
        client.models.retrieve("org/other")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_whole_tool_conversation(client: openai.OpenAI, two_tools: Any) -> None:
    """What every agent framework does: call, run, send the client's own message back, read the answer."""
    called = ask(client, "Say seven", two_tools).choices[0]
    assert called.finish_reason == "tool_calls" and called.message.content is None
    (call,) = called.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "bash",
        {"command": "echo seven"},
    )
    history = [
        {"role": "system", "content": "You are AJ."},
        {"role": "user", "content": [{"type": "text", "text": "Say seven"}]},
        called.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "seven"},
    ]
    answer = client.chat.completions.create(model="talking", messages=history, tools=two_tools)
    assert answer.choices[0].message.content == "It says seven – fertig 🙂."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_streams_text_then_calls(client: openai.OpenAI, two_tools: Any) -> None:
    chunks = list(ask(client, "Hello", two_tools, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == "Hello, I am AJ." and len(pieces) > 2
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.completion_tokens > 2
    assert len({chunk.id for chunk in chunks}) == 1

    chunks = list(ask(client, "Say seven", two_tools, stream=True))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        (0, "bash", {"command": "echo seven"})
    ]
    assert not any(chunk.choices[0].delta.content for chunk in chunks), "no raw markup is streamed"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_limits_and_stop_strings(client: openai.OpenAI, two_tools: Any) -> None:
    cut = ask(client, "Hello", two_tools, max_tokens=2)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 2)
    assert ask(client, "Hello", two_tools, max_completion_tokens=1).usage.completion_tokens == 1
    stopped = ask(client, "Hello", two_tools, stop=[" am"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("Hello, I", "stop")


def test_tool_choice_none_takes_the_tools_away(client: openai.OpenAI, two_tools: Any) -> None:
    with_tools, without = (
        ask(client, "Hello", two_tools, tool_choice=choice, max_tokens=1) for choice in ("auto", "none")
    )
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + 50


def test_the_seed_decides(client: openai.OpenAI, two_tools: Any) -> None:
    def draw(seed: int) -> Any:
        return ask(client, "Something else", two_tools, temperature=2.0, top_p=0.99, seed=seed, max_tokens=12).choices[
            0
        ]

    assert draw(5).message.content == draw(5).message.content != draw(6).message.content


@pytest.mark.parametrize(
    ("changes", "status", "param", "said"),
    [
        ({"model": "gpt-4"}, 404, "model", "only 'talking'"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, None, "shorten it"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"foo": 1}, 400, "foo", "no such field"),
        ({"tools": [{"name": "flat"}]}, 400, "tools[0]", "a tool must be"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_get_a_sentence_in_openai_form(
    client: openai.OpenAI, changes: dict[str, Any], status: int, param: str | None, said: str, stream: bool
) -> None:
    body = {"model": "talking", "messages": [{"role": "user", "content": "x"}], "stream": stream} | changes
    with pytest.raises(openai.APIStatusError) as refused:
        client.post("/chat/completions", body=body, cast_to=object)
    assert refused.value.status_code == status
    assert said in refused.value.body["message"] and refused.value.body["type"] == "invalid_request_error"
    assert refused.value.param == param


def test_a_body_that_is_too_long_is_not_read_to_its_end(client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_server, "MAX_BODY", 1 << 20)
    with pytest.raises(openai.APIStatusError, match="larger than 1 MiB") as refused:
        ask(client, "x" * (1 << 20))
    assert refused.value.status_code == 413


def test_no_json_and_wrong_paths(client: openai.OpenAI) -> None:
    url = str(client.base_url)
    assert "JSON" in httpx.post(f"{url}chat/completions", content=b"{oops").json()["error"]["message"]
    answer = httpx.get(f"{url}nowhere")
    assert answer.status_code == 404 and "nowhere" in answer.json()["error"]["message"]


def test_one_at_a_time_and_a_full_queue_is_said() -> None:
    gate, inside, most = threading.Event(), [0], [0]
    lock = threading.Lock()

    def slow(_: Any) -> str:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        gate.wait(20)
        with lock:
            inside[0] -= 1
        return "done"

    results: list[int] = []
    with running(ScriptedPolicy(slow), max_waiting=2) as url:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "x"}]}

        def post() -> None:
            results.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).status_code)

        threads = [threading.Thread(target=post) for _ in range(5)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while len(results) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert results == [429, 429], "one is answered, two wait, two are turned away"
        gate.set()
        for thread in threads:
            thread.join(20)
    assert sorted(results) == [200, 200, 200, 429, 429] and most[0] == 1


def test_a_client_that_hangs_up_frees_the_model(talking_checkpoint: Path) -> None:
    endless = ScriptedPolicy(lambda c: "x" * (10**7 if c.messages[-1]["content"] == "endless" else 3))
    with running(endless) as url:
        body = {"model": "scripted", "messages": [{"role": "user", "content": "endless"}], "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as response:
            next(response.iter_lines())
        started = time.monotonic()
        client_of(url).chat.completions.create(model="scripted", messages=[{"role": "user", "content": "short"}])
        assert time.monotonic() - started < 10


def test_a_failing_model_is_a_500_and_the_server_goes_on() -> None:
    def fail(conversation: Any) -> str:
        if conversation.messages[-1]["content"] == "fail":
            raise RuntimeError("secret path")
        return "fine"

    with running(ScriptedPolicy(fail)) as url:
        client = client_of(url)
        with pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "fail"}])
        assert "secret" not in str(failed.value)
        answer = client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "x"}])
        assert answer.choices[0].message.content == "fine"


def test_a_model_that_fails_in_the_middle_of_a_stream_says_so() -> None:
    class Failing(ScriptedPolicy):
        def decode(self, token_ids: Any) -> str:
            if len(token_ids) > 5:
                raise RuntimeError("secret path")
            return super().decode(token_ids)

    with running(Failing(lambda _: "some words")) as url:
        messages = [{"role": "user", "content": "x"}]
        with pytest.raises(openai.APIError, match="the model has failed"):
            list(client_of(url).chat.completions.create(model="scripted", messages=messages, stream=True))


def test_a_taken_port_is_refused_before_anything_is_loaded() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(UserError, match="choose another --port"):
            listen("127.0.0.1", taken.getsockname()[1])
