"""`agentforge verify`: whether an artefact and all that it came from are what the manifests say. Reads every byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentforge.errors import CheckRefused
from agentforge.file_hashes import remember, sha256_of
from agentforge.manifest import (
    MANIFEST,
    OF_A_MODEL,
    changed_bytes,
    consumed_files,
    damages,
    enclosing_artifact,
    fingerprint_input,
    input_path,
    read_manifest,
)

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class Verified:
    """One artefact, or one input that is none.

    Attributes:
        path: where it is, or where its manifest said.
        what: the stage that made it, or what kind of input it is.
        files, size: how many files were read, and their bytes.
        problems: what is not as it was; empty if all is.
        unchecked: why nothing could be compared; None if it was.
    """

    path: Path
    what: str
    files: int = 0
    size: int = 0
    problems: list[str] = field(default_factory=list)
    unchecked: str | None = None


def verify(directory: Path) -> list[Verified]:
    """Check an artefact and all that it came from.

    Returns:
        the artefact first, then its inputs and theirs, each once.

    Raises:
        UserError: the directory is no finished artefact.
    """
    read_manifest(directory)
    return list(_chain(directory))


def refuse_problems(found: list[Verified]) -> None:
    """Raise what is not as it was as a refusal.

    Raises:
        CheckRefused: there is something; the first is named.
    """
    wrong = [one for one in found if one.problems]
    if wrong:
        more = f", and {len(wrong) - 1} more are not as they were" if len(wrong) > 1 else ""
        raise CheckRefused(
            f"{wrong[0].path}: {wrong[0].problems[0]}{more}; restore the files from a copy, or make again what they "
            "are part of, with --replace"
        )


def verified_table(found: list[Verified]) -> Table:
    """Return what was checked, for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in ("", "what", "files", "MB", "state"):
        table.add_column(column, justify="right" if column in ("files", "MB") else "left")
    for one in found:
        state = one.unchecked or "\n".join(one.problems) or "sound"
        style = "red" if one.problems else "yellow" if one.unchecked else None
        size = f"{one.size / 1e6:,.2f}" if one.unchecked is None else ""
        count = str(one.files) if one.unchecked is None else ""
        table.add_row(escape(str(one.path)), escape(one.what), count, size, escape(state), style=style)
    return table


def _chain(start: Path) -> Iterator[Verified]:
    seen = {start.resolve()}
    waiting = [start]
    while waiting:
        directory = waiting.pop(0)
        manifest = read_manifest(directory)
        own = _artifact(directory, manifest)
        ends: list[Verified] = []
        for name, entry in manifest.get("inputs", {}).items():
            path = input_path(directory, entry)
            home = None if path is None else enclosing_artifact(path)
            if path is None or home is None:
                ends.append(_end(name, entry, path))
                continue
            if _fingerprint(path) != entry["fingerprint"]:
                own.problems.append(f"its input '{name}' ({path}) has other contents now than when it was read")
            if home.resolve() not in seen:
                waiting.append(home)
                seen.add(home.resolve())
        yield own
        yield from (end for end in ends if end.path.resolve() not in seen)
        seen |= {end.path.resolve() for end in ends}


def _fingerprint(path: Path) -> str:
    # Not `fingerprint_input`, which refuses an artefact with a damaged file: here that is found when its turn comes.
    return str(read_manifest(path)["content"]) if (path / MANIFEST).is_file() else fingerprint_input(path)


def _artifact(directory: Path, manifest: Mapping[str, Any]) -> Verified:
    present = [path for name in manifest.get("files", {}) if (path := directory / name).is_file()]
    found = _read(present)
    # A file of another size is named by that, not by its hash.
    wrong = changed_bytes(directory, manifest, found) | damages(directory, manifest)
    problems = [f"{name} {how}" for name, how in wrong.items()]
    problems += [f"{name} is not in its manifest" for name in _added(directory, manifest)]
    return Verified(directory, str(manifest.get("stage", "?")), len(found), _size(present), problems)


def _added(directory: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the names of files that somebody has put beside an artefact's own, and that are read of a model."""
    files = manifest.get("files", {})
    beside = sorted(path.name for pattern in OF_A_MODEL for path in directory.glob(pattern))
    return [name for name in beside if name not in files and name != MANIFEST]


def _end(name: str, entry: Mapping[str, str], path: Path | None) -> Verified:
    """Return what is known of an input that has no manifest."""
    if "path" not in entry:
        return Verified(Path(entry["id"]), name, unchecked="known by its name only")
    if path is None:
        return Verified(Path(entry["path"]), name, unchecked="is not here any more")
    files = [path] if path.is_file() else consumed_files(path)
    _read(files)
    same = fingerprint_input(path) == entry["fingerprint"]
    problems = [] if same else ["has changed since it was read"]
    return Verified(path, name, len(files), _size(files), problems)


def _read(paths: list[Path]) -> dict[Path, str]:
    found = sha256_of(paths)
    for path, digest in found.items():
        remember(path, digest)
    return found


def _size(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
