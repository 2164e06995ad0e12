"""OpenAI's chat completions as data: requests checked, answers and chunks built.

Reference: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentforge.errors import UserError
from agentforge.rollouts.policies.policies import Conversation, Generation, Policy, Sampling
from agentforge.serving.turns import Delta, Spoken

# What would change the answer and is not built: refused, because leaving it out would be another answer.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "functions": (None, []),
    "function_call": (None, "none"),
    "audio": (None,),
}


class BadRequest(UserError):
    """A request that cannot be answered.

    Attributes:
        status: of HTTP.
        code: OpenAI's short name of the error, if it has one.
        param: the field that is wrong.
    """

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request; fields that clients send and that change nothing here (user, metadata, store ...) are let through."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None

    @field_validator("tools")
    @classmethod
    def _tools_are_functions(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for tool in tools or []:
            if not isinstance(tool.get("function"), dict) or not isinstance(tool["function"].get("name"), str):
                raise ValueError('a tool must be {"type": "function", "function": {"name": ..., "parameters": ...}}')
        return tools

    @classmethod
    def read(cls, body: bytes) -> ChatRequest:
        """Parse a request's body.

        Raises:
            BadRequest: it is no JSON, a field is wrong, or asks for what is not built.
        """
        try:
            request = cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            param = ".".join(str(part) for part in first["loc"])
            raise BadRequest(f"{param}: {first['msg']}" if param else first["msg"], param=param or None) from None
        for name, harmless in UNSUPPORTED.items():
            if (value := (request.model_extra or {}).get(name)) not in harmless:
                raise BadRequest(f"{name}={json.dumps(value)} is not supported by this server", param=name)
        choices = (None, "auto", "none")
        if request.tool_choice not in choices:
            raise BadRequest(
                f"tool_choice must be auto or none, it is {json.dumps(request.tool_choice)}", param="tool_choice"
            )
        return request

    @property
    def conversation(self) -> Conversation:
        """Messages and the tools on offer; OpenAI's role "developer" is the system turn."""
        messages = [m | {"role": "system"} if m.get("role") == "developer" else m for m in self.messages]
        return Conversation(messages, () if self.tool_choice == "none" else self.tools or ())

    def sampling(self, policy: Policy) -> Sampling:
        """Greedy unless a temperature is given; as long as the context allows unless a limit is."""
        return Sampling(
            max_new_tokens=self.max_completion_tokens or self.max_tokens or policy.context_length,
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=secrets.randbits(31) if self.seed is None else self.seed % 2**31,
        )

    @property
    def stop_strings(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class Response:
    """The answer to one request, whole or in chunks."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def whole(self, spoken: Spoken) -> dict[str, Any]:
        """Return a ``chat.completion``."""
        said = spoken.said
        message: dict[str, Any] = {"role": "assistant", "content": said.content or None, "refusal": None}
        if not said.tool_calls:
            message["content"] = said.content
        if said.reasoning:
            message["reasoning_content"] = said.reasoning
        if said.tool_calls:
            message["tool_calls"] = [tool_call(call) for call in said.tool_calls]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": spoken.finish_reason}
        return self._envelope("chat.completion", [choice]) | {"usage": usage(spoken.generation)}

    def first(self) -> dict[str, Any]:
        """Return the chunk that opens a stream."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, delta: Delta) -> dict[str, Any]:
        """Return the chunk of a piece of text."""
        kind, text = delta
        return self._chunk({"content" if kind == "content" else "reasoning_content": text})

    def last(self, spoken: Spoken, include_usage: bool) -> list[dict[str, Any]]:
        """Return the chunks that close a stream: calls, the reason it ended, and usage if it was asked for."""
        calls = [{"index": index, **tool_call(call)} for index, call in enumerate(spoken.said.tool_calls)]
        chunks = [self._chunk({"tool_calls": [call]}) for call in calls]
        chunks.append(self._chunk({}, spoken.finish_reason))
        if include_usage:
            chunks.append(self._envelope("chat.completion.chunk", []) | {"usage": usage(spoken.generation)})
        return chunks

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._envelope("chat.completion.chunk", [choice])

    def _envelope(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


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


def usage(generation: Generation) -> dict[str, int]:
    """Return the tokens that were read and written."""
    read, written = generation.prompt_tokens, len(generation.token_ids)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def error_body(
    message: str, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
