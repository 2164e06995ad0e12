"""Which files a model was trained on, as the manifests of its artefact and of those under it tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentforge.artifacts import MANIFEST, read_manifest
from agentforge.models.locate_model import ModelLocation

ROWS = (".jsonl", ".parquet")


def training_files(location: ModelLocation) -> Iterator[Path]:
    """Yield the JSONL and Parquet files that a model, its base and what they were made from have read, each once.

    Models without a manifest (from the Hub, or made elsewhere) and files that are gone say nothing.
    """
    seen: set[Path] = set()
    # From the model back to everything it was made of: its base, that base's
    # base, their data, and the episodes in them.
    waiting = [Path(path) for path in (location.path, location.base) if path is not None]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if path.suffix in ROWS and path.is_file():
            yield path
        # A GGUF is named as a file, its manifest lies beside it.
        directory = path.parent if path.suffix == ".gguf" else path
        if not (directory / MANIFEST).is_file():
            continue
        manifest = read_manifest(directory)
        if manifest["stage"] == "collect":
            yield from (file for file in sorted(directory.iterdir()) if file.suffix in ROWS)
        waiting += _inputs(manifest)


def _inputs(manifest: dict[str, Any]) -> list[Path]:
    # data sets against which `prepare` decontaminates are read, and kept out
    recipe = manifest["identity"]["recipe"]
    against = (
        recipe.get("data", {}).get("decontaminate", {}).get("against", []) if manifest["stage"] == "prepare" else []
    )
    return [
        Path(entry["path"])
        for name, entry in manifest["inputs"].items()
        if "path" in entry and not any(name.startswith(f"{one} ") for one in against)
    ]
