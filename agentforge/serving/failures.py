"""What a server answers when its own code fails: a sentence with status 500, on a connection that stays usable.

Starlette's handler for `Exception` sends the answer and raises the exception again. uvicorn then closes the connection
without having announced it, and the client's next request on it is lost. So the exception is caught one layer further
in, where nothing raises it again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)


class FailureAnswer:
    """Answers 500 where the app raises what nobody handles.

    Args:
        app: gets every request.
        body: makes the JSON of the answer.
    """

    def __init__(self, app: ASGIApp, body: Callable[[], dict[str, Any]]) -> None:
        self.app, self.body = app, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            if started or scope["type"] != "http":  # half an answer cannot become another: the connection must end
                raise
            log.error("%s failed", scope["path"], exc_info=error)
            await JSONResponse(self.body(), 500)(scope, receive, send)
