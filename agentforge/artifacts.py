"""Stage directories: they appear complete, with a manifest, or not at all.

A stage works in ``.NAME.partial`` beside its target and the whole directory is renamed once, after the manifest is on
disk. A process that dies leaves the target as it was; the next one goes on in the partial directory (if the stage can)
or starts it afresh.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.hardware import available_cores
from agentforge.system_errors import system_errors_explained

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
        UserError: the directory is missing, or is no finished artefact, or its manifest is damaged.
    """
    path = directory / MANIFEST
    if not path.is_file():
        what = "has no manifest.json: it is not a finished artefact" if directory.is_dir() else "does not exist"
        raise UserError(f"{directory} {what}; run the stage that makes it first")
    loaded = _read_object(path)
    if loaded is None or not {"fingerprint", "content", "identity"} <= loaded.keys():
        raise UserError(f"{path} is damaged; delete {directory} and run the stage that makes it again")
    return loaded


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file of our own; None if something else is in it."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not even text
        return None
    return loaded if isinstance(loaded, dict) else None


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to; at the end it becomes ``path``, and on an error nothing does.

    A reader, and a run after a crash, find the old file or the new one, never half of it. The rename alone does not
    give that: after a power cut a name may be on disk before its bytes, so the bytes are flushed first.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def keep_always(partial: Path) -> bool:
    """The default answer to whether a partial directory holds anything that was paid for."""
    return True


# The life of a stage directory NAME, for a reader who is new. Beside it, in the same parent, there may be:
#
#   .NAME.lock          held by the process that makes NAME (flock: it is free again when that process dies, however)
#   .NAME.partial       where the stage writes; NAME itself is never written into
#   .NAME.partial.json  what the partial directory is being made from (stage, recipe, hashes of the inputs)
#   .NAME.old           for a moment, at the rename of a replacement
#
# 1. Lock. A second process is refused, not queued: it would do the same work again.
# 2. Up to date? If NAME has a manifest with the same identity nothing is done. With another identity the stage refuses,
#    or makes it again with `replace`; the old NAME stays in use until step 6.
# 3. Open. A resumable stage finds its partial directory of the same identity and goes on in it. One of another identity
#    is refused if it holds something worth money (`worth_keeping`: a sealed checkpoint), otherwise thrown away. All
#    other stages begin with an empty directory.
# 4. The stage works. If it fails or is stopped by a signal, what it wrote is deleted, but a resumable stage keeps it.
#    SIGKILL and a power cut delete nothing: step 3 of the next run does.
# 5. Seal. The manifest, with the hash of every file, is written and flushed to disk.
# 6. Rename. NAME appears whole, in one step; then `.NAME.partial.json` and the lock's file go.
@contextmanager
def stage_directory(
    target: Path,
    *,
    stage: str,
    recipe: Mapping[str, Any],
    inputs: Mapping[str, Path | str] | None = None,
    resumable: bool = False,
    worth_keeping: Callable[[Path], bool] = keep_always,
    replace: bool = False,
) -> Iterator[Workspace]:
    """Make the artefact ``target``, completely or not at all.

    Args:
        target: the directory to make.
        stage: the verb, for the manifest.
        recipe: the part of the resolved recipe that the result depends on.
        inputs: name to a path (hashed) or to a string that identifies the input (a Hub id and revision).
        resumable: keep what a killed process of the same recipe left in the partial directory.
        worth_keeping: tells of what a stopped run of another recipe left whether a user would miss it.
        replace: make it again if it is there from another recipe; what a stopped run left is thrown away.

    Yields:
        the workspace; if ``done`` is set the caller has nothing to do.

    Raises:
        CheckRefused: the target, or what a stopped run left of it, was made from another recipe or other inputs.
        UserError: another process is making the same directory, or the operating system refuses: a full disk, a
            directory that must not be written to, a name that is too long.
    """
    target = Path(target)
    with system_errors_explained(target):
        hashed = {name: _input_entry(value) for name, value in (inputs or {}).items()}
        identity = _identity(stage, recipe, hashed)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if target.exists() and not target.is_dir():  # found now, not by the rename after a day of training
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))
            if (target / MANIFEST).is_file() and not _must_be_made(target, identity, replace):
                yield Workspace(target, target, done=True, metrics=dict(read_manifest(target).get("metrics", {})))
                return
            partial = target.with_name(f".{target.name}.partial")
            resumed = _open_partial(partial, identity, resumable and not replace, worth_keeping)
            work = Workspace(partial, target, resumed=resumed)
            started = time.time()
            try:
                yield work
                _commit(work, identity, hashed, started)
            except BaseException:
                if not resumable:
                    _discard(partial)
                raise


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
    try:
        manifest = read_manifest(target)
    except UserError:
        if replace:
            return True
        raise
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
    from filelock import FileLock, Timeout

    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another process is making {target}; wait for it or stop it") from None
    try:
        yield
    finally:
        # before the release: filelock sees that a lock on a file without a name holds nobody off, and tries again
        path.unlink(missing_ok=True)
        lock.release()


def _identity_file(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _open_partial(
    partial: Path, identity: dict[str, Any], resumable: bool, worth_keeping: Callable[[Path], bool]
) -> bool:
    """Make the partial directory, and tell whether it is one that a stopped process of the same recipe left."""
    if resumable and partial.is_dir() and _identity_file(partial).is_file():
        left = _read_object(_identity_file(partial))
        if left == identity:
            return True
        if worth_keeping(partial):
            change = "unknown: its record is damaged" if left is None else _summary(left, identity)
            raise CheckRefused(
                f"{partial} is left from a stopped run of another recipe ({change}); finish that run, "
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
    if work.target.is_dir():  # a directory cannot be renamed onto one that is not empty
        os.replace(work.target, outdated)
    try:
        os.replace(work.path, work.target)
    except BaseException:
        if outdated.is_dir() and not work.target.exists():
            os.replace(outdated, work.target)
        raise
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
