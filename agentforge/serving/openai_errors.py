"""Errors as OpenAI's API writes them: a sentence, and the field that is wrong."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic_core import from_json

from agentforge.errors import UserError


class BadRequest(UserError):
    """A request that cannot be answered.

    Attributes:
        status: of HTTP.
        code: OpenAI's short name of the error, if it has one.
        param: the path of the field that is wrong, such as ``messages[2].content``.
    """

    def __init__(self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


def refuse(param: str, sentence: str) -> NoReturn:
    """Raise a `BadRequest` that names the field in its text too: few clients show ``param``."""
    raise BadRequest(f"{param}: {sentence}", param=param)


def read_json(text: str | bytes) -> Any:
    """Read JSON that can be written, rendered and tokenised again.

    Raises:
        ValueError: it is none; or it holds NaN, half a surrogate pair, a number of over 4300 digits, or is nested over
            200 deep.
    """
    value = from_json(text, allow_inf_nan=False)
    json.dumps(value, allow_nan=False)  # `1e999` is read as infinity, and Python reads longer numbers than it writes
    return value


def error_body(
    message: str, kind: str = "invalid_request_error", code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
