"""What an artefact's manifest says of it, and whether its files are still those.

Existence and size are checked whenever an artefact is used. The bytes are checked before they are read (`check_bytes`):
by the stage that reads them, or by whoever opens a model to talk to it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agentforge.atomic_files import read_object
from agentforge.errors import CheckRefused, UserError
from agentforge.file_hashes import hash_json, known_sha256, sha256_of

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
KEYS = {"fingerprint", "content", "identity"}
# What is read of a model that is no artefact of ours. A README and a licence beside it change nothing.
OF_A_MODEL = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py")
# The Hub's cache names the files of large storage after their SHA-256.
BLOB = re.compile(r"[0-9a-f]{64}")


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return a finished artefact's manifest.

    Raises:
        UserError: the directory is missing, or is no finished artefact, or its manifest is damaged.
    """
    path = directory / MANIFEST
    if not path.is_file():
        what = "has no manifest.json: it is not a finished artefact" if directory.is_dir() else "does not exist"
        raise UserError(f"{directory} {what}; run the stage that makes it first")
    loaded = read_object(path)
    if loaded is None or not loaded.keys() >= KEYS:
        raise UserError(f"{path} is damaged; delete {directory} and run the stage that makes it again")
    return loaded


def content_of(files: Mapping[str, str], identities: Mapping[str, str | None]) -> str:
    """Return what identifies an artefact: the hash of what others consume of it.

    Args:
        files: relative path to SHA-256 of every file.
        identities: what stands for a file instead, where its bytes hold times; None: nobody consumes it (a log).
    """
    consumed = {name: identities.get(name, digest) for name, digest in files.items()}
    return hash_json({name: digest for name, digest in consumed.items() if digest is not None})


def fingerprint_input(path: Path) -> str:
    """Return what identifies an input: the content of an artefact, or a hash of the files that are read of it.

    Raises:
        UserError: there is no such file or directory.
        CheckRefused: it is an artefact that lacks a file, or has one of another size.
    """
    if path.is_file():
        return known_sha256(path)
    if (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        check_files(path, manifest)
        return str(manifest["content"])
    if path.is_dir():
        read = consumed_files(path)
        return hash_json({str(file.relative_to(path)): d for file, d in sha256_of(read, remembered=True).items()})
    raise UserError(f"the input {path} does not exist")


def input_path(directory: Path, entry: Mapping[str, str]) -> Path | None:
    """Return where an input of an artefact is now: where the manifest says, or, if they were moved together, beside it.

    Args:
        directory: the artefact.
        entry: of ``inputs`` in its manifest.

    Returns:
        None: it has no path (a Hub id), or is in neither place.
    """
    if "path" not in entry:
        return None
    recorded = Path(entry["path"])
    return next((path for path in (recorded, directory.parent / recorded.name) if path.exists()), None)


def consumed_files(directory: Path) -> list[Path]:
    """Return the files of a directory without a manifest that are read of it, sorted."""
    if any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        return sorted(path for pattern in OF_A_MODEL for path in directory.glob(pattern) if path.is_file())
    return sorted(path for path in directory.rglob("*") if path.is_file())


def damages(directory: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return which of an artefact's files are not as they were, as far as existence and size tell, and how."""
    sizes: Mapping[str, int] = manifest.get("sizes", {})
    found = {}
    for name in manifest.get("files", {}):
        path = directory / name
        if not path.is_file():
            found[name] = "is gone"
        elif name in sizes and (size := path.stat().st_size) != sizes[name]:
            found[name] = f"has {size:,} bytes instead of {sizes[name]:,}"
    return found


def check_files(directory: Path, manifest: Mapping[str, Any] | None = None) -> None:
    """Refuse an artefact that lacks a file, or has one of another size.

    Raises:
        CheckRefused: with the first such file.
    """
    manifest = read_manifest(directory) if manifest is None else manifest
    if found := damages(directory, manifest):
        raise CheckRefused(_damaged(directory, manifest, found))


def check_bytes(path: Path) -> None:
    """Refuse what is about to be read if its bytes are not those that were written.

    An artefact is compared with its manifest, and so is a directory or a file inside of one; a model in the Hub's cache
    is compared with the hashes that its files are named after. Of any other path nothing is known. Every large file is
    read once per machine.

    Args:
        path: a directory, or one file.

    Raises:
        CheckRefused: a file is gone or is another one.
    """
    home = enclosing_artifact(path)
    if home is None:
        _check_blobs([path] if path.is_file() else path.glob("*.safetensors"))
        return
    manifest = read_manifest(home)
    check_files(home, manifest)
    inside = [home / name for name in manifest.get("files", {})]
    if path != home:
        inside = [file for file in inside if file == path or path in file.parents]
    if changed := changed_bytes(home, manifest, sha256_of(inside, remembered=True)):
        raise CheckRefused(_damaged(home, manifest, changed))


def changed_bytes(directory: Path, manifest: Mapping[str, Any], found: Mapping[Path, str]) -> dict[str, str]:
    """Return which of an artefact's files have another hash than its manifest says, and the words for it.

    Args:
        found: path to SHA-256 of those that were read.
    """
    names = {str(path.relative_to(directory)): digest for path, digest in found.items()}
    wrong = [name for name, digest in names.items() if digest != manifest["files"][name]]
    return dict.fromkeys(wrong, "has other bytes than were written")


def enclosing_artifact(path: Path) -> Path | None:
    """Return the artefact that a path is, or lies in: a kept model is a directory of one, a GGUF a file of one."""
    for home in (path, *list(path.parents)[:2]):
        if (home / MANIFEST).is_file():
            loaded = read_object(home / MANIFEST)
            # other programs write files of this name, too
            return home if loaded is not None and loaded.keys() >= KEYS else None
    return None


def _check_blobs(paths: Iterable[Path]) -> None:
    for path in paths:
        blob = path.resolve().name
        if path.is_symlink() and BLOB.fullmatch(blob) and known_sha256(path) != blob:
            raise CheckRefused(
                f"{path} has other bytes than the Hub's; delete the file that it links to, and download it again"
            )


def _damaged(directory: Path, manifest: Mapping[str, Any], found: Mapping[str, str]) -> str:
    name, how = next(iter(found.items()))
    more = f" and {len(found) - 1} more files" if len(found) > 1 else ""
    stage = manifest.get("stage", "the stage that makes it")
    return (
        f"{directory} is damaged: {name} {how}{more}; restore it from a copy, or run `{stage}` with --replace to make "
        "it again"
    )
