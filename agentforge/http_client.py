"""HTTP with two bounds that `httpx2` lacks: seconds for a whole answer, and bytes of it.

httpx's timeouts are for one read each. A server that sends one byte every half second never exceeds them, and holds the
caller for ever. Its client also reads a body to the end, however long. So the bounds are set one layer deeper: every
read from the socket gets the seconds that are left of the deadline, and the body is counted while it arrives.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import httpcore2 as httpcore
import httpx2 as httpx

logging.getLogger("httpx2").setLevel(
    logging.WARNING
)  # it logs each request at INFO: a line for each step of an episode

_ends: ContextVar[float] = ContextVar("_ends")
"""When the request of this thread must have its answer, in `time.monotonic` seconds."""


class AnswerTooLarge(httpx.TransportError):
    """The body has more bytes than the client takes."""


def open_client(timeout: float, most_bytes: int, *, tls: bool = True, keep_alive: float = 5.0) -> httpx.Client:
    """Return a client that reads no environment variables, so no proxy stands between it and a server nearby.

    Args:
        timeout: seconds for a whole answer, connecting included; a request may set its own.
        most_bytes: of a body. The client asks for none that is compressed, and decodes none.
        tls: whether it will speak https; reading the certificates takes longer than a hundred requests.
        keep_alive: seconds for which an idle connection is used again.

    The client raises `httpx2.HTTPError` (of it `TimeoutException`, `ConnectError`, `AnswerTooLarge`) or
    `httpx2.InvalidURL`.
    """
    transport = _Bounded(most_bytes, httpx.create_ssl_context() if tls else None, keep_alive)
    return httpx.Client(timeout=timeout, transport=transport, trust_env=False, headers={"Accept-Encoding": "identity"})


class _Bounded(httpx.BaseTransport):
    def __init__(self, most_bytes: int, ssl_context: SSLContext | None, keep_alive: float) -> None:
        self._most = most_bytes
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context, max_connections=None, keepalive_expiry=keep_alive, network_backend=_Backend()
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        # httpx has one timeout for each of connect, read, write and pool; ours are alike, and mean all of it together
        token = _ends.set(time.monotonic() + request.extensions["timeout"]["read"])
        try:
            return self._answer(request)
        except (
            httpcore.TimeoutException,
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.UnsupportedProtocol,
        ) as error:
            # httpx has an exception of the same name for each of these, which is what its users catch
            raise getattr(httpx, type(error).__name__)(str(error), request=request) from None
        finally:
            _ends.reset(token)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        asked = httpcore.Request(
            method=request.method,
            url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
        )
        response = self._pool.handle_request(asked)
        body = bytearray()
        try:
            assert isinstance(response.stream, Iterable)
            for chunk in response.stream:
                body += chunk
                if len(body) > self._most:
                    raise AnswerTooLarge(f"more than {self._most:,} bytes", request=request)
        finally:
            response.close()
        # without its headers httpx does not decode the body: a few compressed bytes may be gigabytes
        return httpx.Response(response.status, content=bytes(body))

    def close(self) -> None:
        self._pool.close()


class _Backend(httpcore.NetworkBackend):
    """Connects as httpcore does, within what is left of the deadline."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **options: Any) -> _Stream:  # type: ignore[override]
        left = _left(httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, timeout=left, **options))


class _Stream(httpcore.NetworkStream):
    """A connection, each of whose reads and writes has only the seconds that are left of the deadline."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(httpcore.ConnectTimeout)))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


def _left(too_late: type[Exception]) -> float:
    left = _ends.get() - time.monotonic()
    if left <= 0:
        raise too_late("the deadline of the whole answer has passed")
    return left
