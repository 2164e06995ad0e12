"""Where the Hub's files lie on this machine, and whether the Hub answers. Does not import huggingface_hub."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from agentforge.planning.check import Check

TIMEOUT = 2.0


def hub_home() -> Path:
    """Return the directory that `huggingface_hub` keeps everything in; it reads the same variables."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return _expanded(os.environ.get("HF_HOME", f"{cache}/huggingface"))


def hub_cache() -> Path:
    """Return the directory that holds the downloaded models and data sets."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expanded(named) if named else hub_home() / "hub"


def _expanded(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))


def hub_check() -> Iterator[Check]:
    """Yield the state of the connection and the token, for a recipe that must download."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        yield Check("hub", "missing", "HF_HUB_OFFLINE is set, but files must be downloaded", "unset HF_HUB_OFFLINE")
        return
    host, port = _endpoint()
    if _answers(host, port):
        yield Check("hub", "ok", f"{host} answers")
    else:
        detail = f"{host} did not answer on port {port} within {TIMEOUT:g} s"
        yield Check(
            "hub", "missing", detail, "set HTTPS_PROXY or HF_ENDPOINT, or point data.hub_mirror at a local copy"
        )
    token_file = _expanded(os.environ.get("HF_TOKEN_PATH", str(hub_home() / "token")))
    if os.environ.get("HF_TOKEN") or token_file.is_file():
        yield Check("hub token", "ok", "found")
    else:
        yield Check("hub token", "warn", "none found; gated models, private data and push need one", "hf auth login")


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
