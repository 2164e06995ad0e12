"""A client that no server can hold: neither with slowness nor with size."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2 as httpx
import pytest

from agentforge.http_client import AnswerTooLarge, open_client

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answer the first connection as a function says, until it breaks off; yields the address."""

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            try:
                answer(connection)
            except OSError:
                return  # the client has gone

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)
        assert not thread.is_alive()


def drip(*pieces: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
            if len(piece) == 1:
                time.sleep(0.02)

    return answer


@pytest.mark.parametrize(
    "answer",
    [
        drip(HEAD, *[b"x"] * 1000),
        drip(*[b"H"] * 1000),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1", *[b"0"] * 1000),
    ],
    ids=["body", "headers", "chunk"],
)
def test_the_deadline_is_for_the_whole_answer(answer: Callable[[socket.socket], None]) -> None:
    """Each byte comes long before any timeout of a read."""
    with server(answer) as url, open_client(0.25, 10**6) as client:
        begun = time.monotonic()
        with pytest.raises(httpx.TimeoutException):
            client.get(url)
        assert time.monotonic() - begun < 10, "the bytes alone take 20 s"


def test_a_request_may_have_a_deadline_of_its_own() -> None:
    slow = drip(HEAD, *[b"x"] * 1000)
    with server(slow) as url, open_client(60.0, 10**6) as client, pytest.raises(httpx.TimeoutException):
        client.post(url, json={}, timeout=0.1)


def test_a_body_is_read_as_far_as_the_bound() -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 1 << 30:
            sent += connection.send(b"x" * 65536)

    with server(endless) as url, open_client(10.0, 100_000) as client, pytest.raises(AnswerTooLarge, match="100,000"):
        client.get(url)
    assert sent < 1 << 25, "what is not read is not sent for long"


def test_a_compressed_body_is_not_decoded() -> None:
    answer = drip(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")
    with server(answer) as url, open_client(10.0, 100) as client:
        assert client.get(url).content == b"abc"


def test_what_goes_wrong_is_named_as_httpx_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    with open_client(1.0, 100) as client:
        with pytest.raises(httpx.ConnectError):
            client.get(f"http://127.0.0.1:{port}")
        with pytest.raises(httpx.UnsupportedProtocol):
            client.get("ftp://127.0.0.1/x")
    strange = drip(b"not HTTP\r\n\r\n")
    with server(strange) as url, open_client(1.0, 100) as client, pytest.raises(httpx.RemoteProtocolError):
        client.get(url)
