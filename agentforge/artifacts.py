"""Stage directories: they appear complete, with a manifest, or not at all.

A stage works in ``.NAME.partial`` beside its target and the whole directory is renamed once, after the manifest is on
disk. A process that dies leaves the target as it was; the next one goes on in the partial directory (if the stage can)
or starts it afresh.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from agentforge.atomic_files import atomic_file as atomic_file
from agentforge.atomic_files import read_object, remove_leftovers
from agentforge.atomic_files import write_json as write_json
from agentforge.atomic_files import write_text as write_text
from agentforge.errors import CheckRefused, UserError
from agentforge.file_hashes import hash_files as hash_files
from agentforge.file_hashes import hash_json as hash_json
from agentforge.file_hashes import remember
from agentforge.file_hashes import sha256_file as sha256_file
from agentforge.manifest import MANIFEST as MANIFEST
from agentforge.manifest import check_bytes, check_files, content_of, damages
from agentforge.manifest import fingerprint_input as fingerprint_input
from agentforge.manifest import read_manifest as read_manifest
from agentforge.system_errors import system_errors_explained

log = logging.getLogger(__name__)

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
        identities: for a file whose bytes hold times, what identifies the rest of it; None for a log, which nobody
            consumes. Made again with the same numbers, the artefact is then the same input to others.
    """

    path: Path
    target: Path
    done: bool = False
    resumed: bool = False
    metrics: dict[str, Any] = field(default_factory=dict)
    identities: dict[str, str | None] = field(default_factory=dict)


def keep_always(partial: Path) -> bool:
    """The default answer to whether a partial directory holds anything that was paid for."""
    return True


def keep_never(partial: Path, recipe: Mapping[str, Any]) -> bool:
    """The default answer to whether what another recipe left is of use."""
    return False


# The life of a stage directory NAME, for a reader who is new. Beside it, in the same parent, there may be:
#
#   .NAME.lock          held by the process that makes NAME (flock: it is free again when that process dies, however)
#   .NAME.partial       where the stage writes; NAME itself is never written into
#   .NAME.partial.json  what the partial directory is being made from (stage, recipe, hashes of the inputs)
#   .NAME.old           for a moment, at the rename of a replacement
#
# 1. Lock. A second process is refused, not queued: it would do the same work again.
# 2. Up to date? If NAME has a manifest with the same identity nothing is done. With another identity, or if one of its
#    files is gone or cut, the stage refuses, or makes it again with `replace`; the old NAME stays in use until step 6.
# 3. Open. The bytes of all inputs are checked. A resumable stage finds its partial directory of the same identity and
#    goes on in it, with `replace` too. One of another identity is gone on in if the stage says that up to there nothing
#    is different (`goes_on`), refused if it holds something worth money (`blocks`: a sealed checkpoint), and otherwise
#    thrown away. All other stages begin with an empty directory.
# 4. The stage works. If it fails or is stopped by a signal, what it wrote is deleted, but a resumable stage keeps what
#    is worth keeping. SIGKILL and a power cut delete nothing: step 3 of the next run does.
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
    goes_on: Callable[[Path, Mapping[str, Any]], bool] = keep_never,
    blocks: Callable[[Path], bool] | None = None,
    replace: bool = False,
) -> Iterator[Workspace]:
    """Make the artefact ``target``, completely or not at all.

    Args:
        target: the directory to make.
        stage: the verb, for the manifest.
        recipe: the part of the resolved recipe that the result depends on.
        inputs: name to a path (hashed) or to a string that identifies the input (a Hub id and revision).
        resumable: keep what a killed process of the same recipe left in the partial directory.
        worth_keeping: tells of what a stopped run left whether a user would miss it; what nobody misses goes at once.
        goes_on: tells of it, and of its other recipe, whether this one would have left the same.
        blocks: tells of it whether it makes way for another recipe only on request; None: as `worth_keeping`.
        replace: make it again if it is of another recipe, or damaged; what another recipe's run left is thrown away.

    Yields:
        the workspace; if ``done`` is set the caller has nothing to do.

    Raises:
        CheckRefused: the target, or what is left of it, was made from something else; or it or an input is damaged.
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
            _put_back(target)
            if (reason := _reason_to_make(target, identity, replace)) is None:
                log.info("%s is up to date", target)
                yield Workspace(target, target, done=True, metrics=dict(read_manifest(target).get("metrics", {})))
                return
            for path in (value for value in (inputs or {}).values() if isinstance(value, Path)):
                check_bytes(path)
            partial = target.with_name(f".{target.name}.partial")
            resumed = resumable and _is_resumed(partial, identity, blocks or worth_keeping, goes_on, replace)
            log.info("making %s%s", target, f"{reason}; a stopped run is continued" if resumed else reason)
            work = Workspace(partial if resumed else _begun(partial, identity), target, resumed=resumed)
            started = time.time()
            try:
                yield work
                _commit(work, identity, hashed, started)
            except BaseException:
                if not (resumable and worth_keeping(partial)):
                    _discard(partial)
                raise


def is_current(
    target: Path, *, stage: str, recipe: Mapping[str, Any], inputs: Mapping[str, Path | str] | None = None
) -> bool:
    """Tell whether ``target`` is there, undamaged, made by this stage from this recipe and these inputs."""
    if not (target / MANIFEST).is_file():
        return False
    hashed = {name: _input_entry(value) for name, value in (inputs or {}).items()}
    manifest = read_manifest(target)
    current = manifest["fingerprint"] == hash_json(_identity(stage, recipe, hashed)) and not damages(target, manifest)
    if current:
        log.info("%s is up to date", target)
    return current


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


def _reason_to_make(target: Path, identity: dict[str, Any], replace: bool) -> str | None:
    """Return why ``target`` is made again (after a space; empty: it was never made), or None if it is up to date.

    Raises:
        CheckRefused: it is there, of something else or damaged, and shall not be replaced.
        UserError: the same, of a damaged manifest.
    """
    if not (target / MANIFEST).is_file():
        return ""
    try:
        manifest = read_manifest(target)
    except UserError:
        if replace:
            return " again: its manifest is damaged"
        raise
    if manifest["fingerprint"] != hash_json(identity):
        changes = _summary(manifest["identity"], identity)
        if replace:
            return f" again: {changes}"
        raise CheckRefused(
            f"{target} was made from something else ({changes}); "
            "give this run another version, or pass --replace to make it again"
        )
    if found := damages(target, manifest):
        if not replace:
            check_files(target, manifest)
        return " again: {} {}".format(*next(iter(found.items())))
    return None


def _put_back(target: Path) -> None:
    # A process was killed between the two renames of `_commit`: the old artefact is still whole.
    outdated = _outdated(target)
    if outdated.is_dir() and not target.exists():
        os.replace(outdated, target)


def _outdated(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


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


def _is_resumed(
    partial: Path,
    identity: dict[str, Any],
    blocks: Callable[[Path], bool],
    goes_on: Callable[[Path, Mapping[str, Any]], bool],
    replace: bool,
) -> bool:
    """Tell whether the partial directory is one that a stopped process of the same recipe left.

    Raises:
        CheckRefused: it is one of another recipe that a user would miss, and shall not be replaced.
    """
    _remove_leftovers(partial)
    if not (partial.is_dir() and _identity_file(partial).is_file()):
        return False
    left = read_object(_identity_file(partial))
    if left == identity:
        return True
    if left is not None and left == identity | {"recipe": left["recipe"]} and goes_on(partial, left["recipe"]):
        write_json(_identity_file(partial), identity)
        return True
    if blocks(partial) and not replace:
        change = "unknown: its record is damaged" if left is None else _summary(left, identity)
        raise CheckRefused(
            f"{partial} is left from a stopped run of another recipe ({change}); finish that run, "
            "give this one another version, or pass --replace to throw it away"
        )
    return False


def _begun(partial: Path, identity: dict[str, Any]) -> Path:
    _discard(partial)
    write_json(_identity_file(partial), identity)
    partial.mkdir()
    return partial


def _remove_leftovers(partial: Path) -> None:
    """Delete what a killed process was writing, or a resumed stage would publish it with the rest."""
    remove_leftovers([*partial.rglob(".*"), *partial.parent.glob(f".{_identity_file(partial).name}.*")])


def _discard(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    _identity_file(partial).unlink(missing_ok=True)
    _remove_leftovers(partial)


def _commit(work: Workspace, identity: dict[str, Any], inputs: dict[str, dict[str, str]], started: float) -> None:
    files = hash_files(work.path, leave_out=[MANIFEST])
    sizes = {name: (work.path / name).stat().st_size for name in files}
    manifest = {
        "stage": identity["stage"],
        "fingerprint": hash_json(identity),
        "content": content_of(files, work.identities),
        "metrics": work.metrics,
        "seconds": round(time.time() - started, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "inputs": inputs,
        "versions": library_versions(),
        "python": platform.python_version(),
        "git": git_revision(),
        "files": files,
        "sizes": sizes,
        "identity": identity,
    }
    write_json(work.path / MANIFEST, manifest)
    outdated = _outdated(work.target)
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
    for name, digest in files.items():  # the next stage reads them: it need not hash them again
        remember(work.target / name, digest)


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
