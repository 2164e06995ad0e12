"""OpenAI's chat completions as data: requests checked, answers and chunks built.

Reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentforge.errors import did_you_mean
from agentforge.rollouts.policies.base import Conversation, Policy, Sampling
from agentforge.serving.forms import Form, form_of
from agentforge.serving.openai_errors import BadRequest, read_json, refuse
from agentforge.serving.openai_messages import checked_messages, checked_tools
from agentforge.serving.speaking import ScoredToken, Spoken
from agentforge.serving.turns import Delta

UNREAD = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields that say who asks, what to keep or how fast to be: the answer is the same without them."""
ONLY_DEFAULT: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "presence_penalty": (None, 0),
    "reasoning_effort": (None,),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
"""Fields that would change the answer and are not built, with the values that ask for nothing."""
MOST_SHOWN = 80
"""Characters of a wrong field that an error repeats: a request may be megabytes of one."""
INSTEAD = {
    "frequency_penalty": "use repetition_penalty",
    "function_call": "use tool_choice",
    "functions": "use tools",
    "presence_penalty": "use repetition_penalty",
}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(BaseModel):
    """A request. Its fields are an allow-list: one that is not known is refused, since it may ask for another answer.

    `top_k`, `min_p` and `repetition_penalty` are not OpenAI's; vLLM and transformers have them under these names.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    messages: list[Any] = Field(min_length=1)
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    response_format: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = None
    stop: list[Annotated[str, Field(max_length=1000)]] | None = Field(None, max_length=16)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    _form: Form | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @classmethod
    def read(cls, body: bytes) -> ChatRequest:
        """Parse a request's body.

        Raises:
            BadRequest: it is no JSON, a field is unknown or wrong, or asks for what is not built.
        """
        try:
            fields = read_json(body)
        except ValueError as error:
            raise BadRequest(f"the body is not valid JSON: {error}") from None
        if not isinstance(fields, dict):
            raise BadRequest("the body must be a JSON object")
        try:
            request = cls.model_validate(_asked_for(cls, fields))
        except ValidationError as error:
            first = error.errors()[0]
            refuse(_path(first["loc"]), str(first["msg"]))
        request.messages = checked_messages(request.messages)
        request.tools = checked_tools(request.tools) if request.tools else None
        if request.top_logprobs is not None and not request.logprobs:
            refuse("top_logprobs", "it needs logprobs: true")
        request._form = form_of(request.response_format, request.tools, request.tool_choice)
        return request

    @property
    def form(self) -> Form | None:
        """What the answer is held to; None: the model writes what it likes."""
        return self._form

    @property
    def conversation(self) -> Conversation:
        """Messages and the tools on offer. The model is not told of `strict`, which is a matter of the grammar."""
        offered = () if self.tool_choice == "none" else self.tools or ()
        return Conversation(self.messages, [_without_strict(tool) for tool in offered])

    def sampling(self, policy: Policy, choice: int = 0) -> Sampling:
        """Greedy unless a temperature is given; as long as the context allows unless a limit is.

        Args:
            choice: index among the `n`, each of which has its own seed.
        """
        if self.seed is None:
            self.seed = secrets.randbits(31)
        sampling = Sampling(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or policy.context_length,
            temperature=self.temperature or 0.0,
            seed=(self.seed + choice) % 2**31,
        )
        given = {
            name: value
            for name in ("top_p", "top_k", "min_p", "repetition_penalty")
            if (value := getattr(self, name)) is not None
        }
        return replace(sampling, **given)


def _asked_for(request: type[BaseModel], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are read."""
    known = [*request.model_fields, *UNREAD, *ONLY_DEFAULT]
    for name, value in fields.items():
        if name not in known:
            name = name[:MOST_SHOWN]
            refuse(name, f"this server knows no such field{did_you_mean(name, known)}")
        if name in ONLY_DEFAULT and value not in ONLY_DEFAULT[name]:
            instead = f"; {INSTEAD[name]}" if name in INSTEAD else "; leave it out"
            refuse(name, f"{json.dumps(value)[:MOST_SHOWN]} is not supported by this server{instead}")
    return {name: value for name, value in fields.items() if name in request.model_fields}


def _path(steps: Sequence[int | str]) -> str:
    """Return pydantic's place as OpenAI writes it: ``stop[1]``, ``stream_options.include_usage``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _without_strict(tool: dict[str, Any]) -> dict[str, Any]:
    function = {key: value for key, value in tool["function"].items() if key != "strict"}
    return tool | {"function": function}


class Response:
    """The answer to one request, whole or in chunks.

    Args:
        model: its label.
        logprobs: they were asked for.
    """

    def __init__(self, model: str, logprobs: bool = False) -> None:
        self.model = model
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self._logprobs = logprobs

    def whole(self, choices: Sequence[Spoken]) -> dict[str, Any]:
        """Return a ``chat.completion``."""
        written = [self._choice(index, spoken) for index, spoken in enumerate(choices)]
        return self._envelope("chat.completion", written) | {"usage": usage(choices)}

    def _choice(self, index: int, spoken: Spoken) -> dict[str, Any]:
        said = spoken.said
        message: dict[str, Any] = {"role": "assistant", "content": said.content or None, "refusal": None}
        if not said.tool_calls:
            message["content"] = said.content
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.tool_calls:
            message["tool_calls"] = [tool_call(call) for call in said.tool_calls]
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs_of(spoken.tokens),
            "finish_reason": spoken.finish_reason,
        }

    def first(self, index: int) -> dict[str, Any]:
        """Return the chunk that opens a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, delta: Delta, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        """Return the chunk of a piece of text."""
        kind, text = delta
        return self._chunk(index, {"content" if kind == "content" else "reasoning_content": text}, tokens)

    def last(self, index: int, spoken: Spoken) -> list[dict[str, Any]]:
        """Return the chunks that close a choice: its calls, and the reason it ended.

        OpenAI streams a call's arguments in fragments as they are written. Here a call goes out whole and at the end:
        until the turn is over its markup may still turn out unreadable, and then all of it is text (see `read_turn`).
        Clients that join fragments join this one as well. The tokens of the markup have no text of their own in the
        stream, so their log-probabilities go with the first of these chunks.
        """
        rest = spoken.tokens[spoken.reported :]
        calls = [{"index": position, **tool_call(call)} for position, call in enumerate(spoken.said.tool_calls)]
        chunks = []
        for call in calls:
            chunks.append(self._chunk(index, {"tool_calls": [call]}, rest))
            rest = []
        return [*chunks, self._chunk(index, {}, rest, spoken.finish_reason)]

    def usage(self, choices: Sequence[Spoken]) -> dict[str, Any]:
        """Return the chunk that ends a stream whose request asked for it."""
        return self._envelope("chat.completion.chunk", []) | {"usage": usage(choices)}

    def _chunk(
        self, index: int, delta: dict[str, Any], tokens: Sequence[ScoredToken] = (), reason: str | None = None
    ) -> dict[str, Any]:
        logprobs = self._logprobs_of(tokens) if tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self._envelope("chat.completion.chunk", [choice])

    def _logprobs_of(self, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = [
            scored(token.text, token.logprob) | {"top_logprobs": [scored(*entry) for entry in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def scored(text: str, logprob: float) -> dict[str, Any]:
    """Return a token's log-probability. JSON has no infinity: the API writes -9999 for what cannot come."""
    # a token may be a part of a character: then its bytes are not in its text
    spelt = None if "\ufffd" in text else list(text.encode())
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": spelt}


def tool_call(call: dict[str, Any]) -> dict[str, Any]:
    """Return a call in OpenAI's form: an id, and the arguments as a string of JSON."""
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    identity: Literal["function"] = "function"
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": identity,
        "function": {"name": function["name"], "arguments": arguments},
    }


def usage(choices: Sequence[Spoken]) -> dict[str, int]:
    """Return the tokens that were read, once for all choices, and written."""
    read = choices[0].generation.prompt_tokens
    written = sum(len(spoken.generation.token_ids) for spoken in choices)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
