"""Manifests of artefacts that a test has put together by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentforge.artifacts import MANIFEST, write_json


def write_manifest(directory: Path, **fields: Any) -> None:
    """Write a manifest with the fields that every one has, and those given."""
    write_json(directory / MANIFEST, {"fingerprint": "f", "content": "c", "identity": {}, **fields})
