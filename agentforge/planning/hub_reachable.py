"""Whether the Hub can be used from here, in two seconds at most."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from agentforge.planning.doctor import Check

TIMEOUT = 2.0


def hub_check() -> Iterator[Check]:
    """Yield what is to be said about the token and the connection, for a recipe that must download."""
    from agentforge.planning.doctor import Check

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        yield Check(
            "hub", "missing", "HF_HUB_OFFLINE is set, and something is to be downloaded", "unset HF_HUB_OFFLINE"
        )
        return
    host, port = _endpoint()
    if _answers(host, port):
        yield Check("hub", "ok", f"{host} answers")
    else:
        detail = f"{host} does not answer on port {port} within {TIMEOUT:g} s"
        yield Check("hub", "missing", detail, "set HTTPS_PROXY or HF_ENDPOINT, or data.hub_mirror to a local copy")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    token_file = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    if os.environ.get("HF_TOKEN") or token_file.is_file():
        yield Check("hub token", "ok", "there is one")
    else:
        yield Check("hub token", "warn", "none; gated models, private data and push need one", "hf auth login")


def _endpoint() -> tuple[str, int]:
    """Return host and port that a download connects to first: the proxy's, if one is set."""
    address = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    address = address or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    parts = urlsplit(address if "//" in address else f"//{address}")
    return parts.hostname or "huggingface.co", parts.port or (80 if parts.scheme == "http" else 443)


def _answers(host: str, port: int) -> bool:
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=TIMEOUT).close()
            connected.set()
        except OSError:
            return

    # In a thread: looking a name up has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return connected.is_set()
