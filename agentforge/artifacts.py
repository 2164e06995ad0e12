"""Stage directories: they appear complete, with a manifest, or not at all.

A stage works in ``.NAME.partial`` beside its target and the whole directory is renamed once, after the manifest is on
disk. A process that dies leaves the target as it was; the next one goes on in the partial directory (if the stage can)
or starts it afresh.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.hardware import available_cores

MANIFEST = "manifest.json"
REPORTED_LIBRARIES = (
    "agentforge-train",
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "datasets",
    "peft",
    "tokenizers",
)


@dataclass
class Workspace:
    """A directory being made.

    Attributes:
        path: where the stage writes; renamed to `target` at the end.
        target: where the artefact will be.
        done: the artefact is already there and up to date; nothing is to be done.
        resumed: an earlier process of the same recipe has left work in `path`.
        metrics: what the stage wants in its manifest.
    """

    path: Path
    target: Path
    done: bool = False
    resumed: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the hex SHA-256 of a JSON-able value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_files(directory: Path) -> dict[str, str]:
    """Return relative path to SHA-256 for every file below ``directory`` but its manifest."""
    paths = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST)
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        return {str(p.relative_to(directory)): h for p, h in zip(paths, pool.map(sha256_file, paths), strict=True)}


def fingerprint_input(path: Path) -> str:
    """Return what identifies an input: the content hash of an artefact, or a hash of the files themselves."""
    if path.is_file():
        return sha256_file(path)
    if (path / MANIFEST).is_file():
        return str(read_manifest(path)["content"])
    if path.is_dir():
        return hash_json(hash_files(path))
    raise UserError(f"the input {path} does not exist")


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return a finished artefact's manifest.

    Raises:
        UserError: the directory is missing, or is no finished artefact.
    """
    path = directory / MANIFEST
    if not path.is_file():
        what = "has no manifest.json: it is not a finished artefact" if directory.is_dir() else "does not exist"
        raise UserError(f"{directory} {what}; run the stage that makes it first")
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is old or new, never half: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=str)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def stage_directory(
    target: Path,
    *,
    stage: str,
    recipe: Mapping[str, Any],
    inputs: Mapping[str, Path | str] | None = None,
    resumable: bool = False,
    replace: bool = False,
) -> Iterator[Workspace]:
    """Make the artefact ``target``, completely or not at all.

    Args:
        target: the directory to make.
        stage: the verb, for the manifest.
        recipe: the part of the resolved recipe that the result depends on.
        inputs: name to a path (hashed) or to a string that identifies the input (a Hub id and revision).
        resumable: keep what a killed process of the same recipe left in the partial directory.
        replace: make it again if it is there from another recipe; what a stopped run left is thrown away.

    Yields:
        the workspace; if ``done`` is set the caller has nothing to do.

    Raises:
        CheckRefused: the target, or what a stopped run left of it, was made from another recipe or other inputs.
        UserError: another process is making the same directory.
    """
    target = Path(target)
    hashed = {name: _input_entry(value) for name, value in (inputs or {}).items()}
    identity = _identity(stage, recipe, hashed)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        if (target / MANIFEST).is_file() and not _must_be_made(target, identity, replace):
            yield Workspace(target, target, done=True, metrics=dict(read_manifest(target).get("metrics", {})))
            return
        partial = target.with_name(f".{target.name}.partial")
        resumed = _open_partial(partial, identity, resumable, replace)
        work = Workspace(partial, target, resumed=resumed)
        started = time.time()
        try:
            yield work
        except BaseException:
            if not resumable:
                _discard(partial)
            raise
        _commit(work, identity, hashed, started)


def is_current(
    target: Path, *, stage: str, recipe: Mapping[str, Any], inputs: Mapping[str, Path | str] | None = None
) -> bool:
    """Tell whether ``target`` is there, made by this stage from this recipe and these inputs."""
    if not (target / MANIFEST).is_file():
        return False
    hashed = {name: _input_entry(value) for name, value in (inputs or {}).items()}
    return bool(read_manifest(target)["fingerprint"] == hash_json(_identity(stage, recipe, hashed)))


def _identity(stage: str, recipe: Mapping[str, Any], inputs: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    return {
        "stage": stage,
        "recipe": json.loads(json.dumps(recipe, default=str)),
        "inputs": {name: entry["fingerprint"] for name, entry in inputs.items()},
    }


def _input_entry(value: Path | str) -> dict[str, str]:
    if isinstance(value, Path):
        return {"path": str(value), "fingerprint": fingerprint_input(value)}
    return {"id": value, "fingerprint": value}


def _must_be_made(target: Path, identity: dict[str, Any], replace: bool) -> bool:
    manifest = read_manifest(target)
    if manifest["fingerprint"] == hash_json(identity):
        return False
    if replace:
        return True
    raise CheckRefused(
        f"{target} was made from something else ({_summary(manifest['identity'], identity)}); "
        "give this run another version, or pass --replace to make it again"
    )


def _summary(old: dict[str, Any], new: dict[str, Any]) -> str:
    changes = _differences(old, new)
    return "; ".join(changes[:3]) + (" ..." if len(changes) > 3 else "")


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [line for k in keys for line in _differences(old.get(k), new.get(k), f"{path}.{k}".lstrip("."))]
    if old == new:
        return []
    if path.startswith("inputs."):
        return [f"{path.removeprefix('inputs.')} has changed"]
    short = [text if len(text := repr(value)) <= 40 else text[:37] + "..." for value in (old, new)]
    return [f"{path.removeprefix('recipe.')}: {short[0]} -> {short[1]}"]


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    lock = target.with_name(f".{target.name}.lock")
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a process that has just finished unlinks the file: a lock on its remains holds nobody off
            ours = lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except BlockingIOError:
            ours = False
        if not ours:
            raise UserError(f"another process is making {target}; wait for it or stop it") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _identity_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _open_partial(partial: Path, identity: dict[str, Any], resumable: bool, replace: bool) -> bool:
    """Make the partial directory, and tell whether it is one that a stopped process of the same recipe left."""
    if partial.is_dir() and resumable and not replace and _identity_file(partial).is_file():
        left = json.loads(_identity_file(partial).read_text(encoding="utf-8"))
        if left == identity:
            return True
        raise CheckRefused(
            f"{partial} is left from a stopped run of another recipe ({_summary(left, identity)}); finish that run, "
            "give this one another version, or pass --replace to throw it away"
        )
    _discard(partial)
    write_json(_identity_file(partial), identity)
    partial.mkdir()
    return False


def _discard(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    _identity_file(partial).unlink(missing_ok=True)


def _commit(work: Workspace, identity: dict[str, Any], inputs: dict[str, dict[str, str]], started: float) -> None:
    files = hash_files(work.path)
    manifest = {
        "stage": identity["stage"],
        "fingerprint": hash_json(identity),
        "content": hash_json(files),
        "metrics": work.metrics,
        "seconds": round(time.time() - started, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "inputs": inputs,
        "versions": library_versions(),
        "python": platform.python_version(),
        "git": git_revision(),
        "files": files,
        "identity": identity,
    }
    write_json(work.path / MANIFEST, manifest)
    outdated = work.target.with_name(f".{work.target.name}.old")
    shutil.rmtree(outdated, ignore_errors=True)
    if work.target.is_dir():
        os.replace(work.target, outdated)
    os.replace(work.path, work.target)
    _identity_file(work.path).unlink(missing_ok=True)
    shutil.rmtree(outdated, ignore_errors=True)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a result, without importing them."""
    found = {}
    for name in REPORTED_LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The revision of the working tree, with ``+dirty`` if it has changes; None outside one."""
    try:
        run = [
            "git",
            "-C",
            str(Path(__file__).parent),
            "describe",
            "--always",
            "--dirty=+dirty",
            "--abbrev=40",
            "--exclude=*",
        ]
        return subprocess.run(run, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
