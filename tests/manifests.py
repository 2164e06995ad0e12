"""Manifests of artefacts that a test has put together by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentforge.artifacts import MANIFEST, hash_files, read_manifest, write_json
from agentforge.manifest import content_of


def write_manifest(directory: Path, **fields: Any) -> None:
    """Write a manifest with the fields that every one has, and those given."""
    write_json(directory / MANIFEST, {"fingerprint": "f", "content": "c", "identity": {}, **fields})


def flip(file: Path, place: int = -1) -> None:
    """Change one bit of a file, as a bad disk or a bad copy does."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def reseal(directory: Path) -> None:
    """Take a test's changes to an artefact's files into its manifest, as if the stage had made them."""
    files = hash_files(directory, leave_out=[MANIFEST])
    sizes = {name: (directory / name).stat().st_size for name in files}
    manifest = read_manifest(directory) | {"files": files, "sizes": sizes, "content": content_of(files, {})}
    write_json(directory / MANIFEST, manifest)
