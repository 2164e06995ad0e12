"""A key that clients of a server must send, as OpenAI's do: ``Authorization: Bearer KEY``."""

from __future__ import annotations

import hmac

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from agentforge.errors import UserError
from agentforge.serving.openai_errors import error_body

OPEN = {"/health"}  # a load balancer asks it, and it says nothing of the model


def check_key(api_key: str | None) -> None:
    """Refuse a key that no client could send.

    Raises:
        UserError: it is empty, or holds something else than visible ASCII, as a header must.
    """
    if api_key is not None and not (api_key and all("!" <= character <= "~" for character in api_key)):
        raise UserError("the API key (--api-key or AGENTFORGE_API_KEY) must be visible ASCII characters without spaces")


class KeyCheck:
    """Middleware that answers 401 to whoever does not send the key."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it before its body is read."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"authorization", b"")
        # In constant time: how long the comparison takes must not tell how much of a guess was right.
        if hmac.compare_digest(sent, self._expected):
            await self._app(scope, receive, send)
            return
        what = "is not this server's" if sent else "is missing"
        body = error_body(f"the API key {what}; send it as 'Authorization: Bearer KEY'", code="invalid_api_key")
        await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
