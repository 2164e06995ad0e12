"""A copy of the runs' directory in a bucket, for machines that can be taken away at any moment.

``python -m agentforge.export.bucket save RUNS BUCKET`` copies what is complete: finished artefacts, and of a stage that
still runs its sealed checkpoints. ``restore BUCKET RUNS`` brings back what is whole: every file has the hash that the
artefact's manifest, or the checkpoint's seal, has of it. A bucket that is mounted as a directory renames nothing in one
step and uploads in its own order, so a copy may break off anywhere; its manifest or seal is written last, and what it
says is compared when the copy is used.

A training deletes old checkpoints while they are copied. Such a copy is left unsealed and the next one goes on.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from agentforge.artifacts import MANIFEST, sha256_file
from agentforge.errors import UserError
from agentforge.trainers.checkpoints import MARKER

log = logging.getLogger(__name__)

PARTIAL = ".partial"
LOCK = ".bucket.lock"
UNFINISHED = "checkpoint-"


def save(runs: Path, bucket: Path) -> int:
    """Copy what is complete and not in the bucket yet; return how many things could not be copied this time.

    Args:
        runs: the directory of a recipe's artefacts.
        bucket: its copy; made if it is missing.
    """
    bucket.mkdir(parents=True, exist_ok=True)
    runs.mkdir(parents=True, exist_ok=True)
    # The loop's copy and the last one, at the end of the task, must not write into each other.
    with FileLock(runs / LOCK):
        failed = sum(not _saved(artifact, bucket / artifact.name, MANIFEST) for artifact in _sealed(runs, MANIFEST))
        failed += sum(not _partial_saved(partial, bucket) for partial in runs.glob(f".*{PARTIAL}"))
        _forget(runs, bucket)
    return failed


def restore(bucket: Path, runs: Path) -> list[str]:
    """Bring back what is whole in the bucket and missing here; return the names of what is not whole.

    Args:
        bucket: as `save` left it, or some way into that.
        runs: the directory of a recipe's artefacts.
    """
    runs.mkdir(parents=True, exist_ok=True)
    broken = [a.name for a in _sealed(bucket, MANIFEST) if not _restored(a, runs / a.name, MANIFEST)]
    for partial in sorted(bucket.glob(f".*{PARTIAL}")):
        identity, target = bucket / f"{partial.name}.json", runs / partial.name
        checkpoints = list(_sealed(partial, MARKER))
        if not identity.is_file() or (runs / partial.name.removeprefix(".").removesuffix(PARTIAL)).is_dir():
            continue
        broken += [c.name for c in checkpoints if not _restored(c, target / c.name, MARKER)]
        if target.is_dir():
            for file in _loose_files(partial):
                _copy(file, target / file.relative_to(partial))
            _copy(identity, runs / identity.name)
    return broken


def _sealed(place: Path, seal: str) -> Iterator[Path]:
    for directory in sorted(place.iterdir()) if place.is_dir() else ():
        if (directory / seal).is_file() and (seal == MARKER or not directory.name.startswith(".")):
            yield directory


def _files(directory: Path, seal: str) -> dict[str, str]:
    """Return what a manifest or seal says: relative path to hash."""
    found = json.loads((directory / seal).read_text(encoding="utf-8"))["files"]
    return {str(name): str(digest) for name, digest in found.items()}


def _saved(source: Path, target: Path, seal: str) -> bool:
    try:
        written = (source / seal).read_bytes()
        if (target / seal).is_file() and (target / seal).read_bytes() == written:
            return True
        (target / seal).unlink(missing_ok=True)  # what is there is of an earlier one of this name
        for name in _files(source, seal):
            _copy(source / name, target / name)
        (target / seal).parent.mkdir(parents=True, exist_ok=True)
        (target / seal).write_bytes(written)
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s is not saved this time: %s", source, error)
        return False
    return True


def _partial_saved(partial: Path, bucket: Path) -> bool:
    """Save the sealed checkpoints of a stage that still runs, and what lies beside them."""
    identity, target = partial.with_name(f"{partial.name}.json"), bucket / partial.name
    try:
        _copy(identity, bucket / identity.name)
        for file in _loose_files(partial):
            _copy(file, target / file.relative_to(partial))
    except OSError as error:
        log.warning("%s is not saved this time: %s", partial, error)
        return False
    # All of them, whether or not one fails.
    return all([_saved(checkpoint, target / checkpoint.name, MARKER) for checkpoint in _sealed(partial, MARKER)])


def _loose_files(partial: Path) -> list[Path]:
    """Return the files of a partial directory that belong to no checkpoint; the packed rows are made again."""
    files = (file for file in partial.rglob("*") if file.is_file())
    own = ((file, file.relative_to(partial).parts[0]) for file in files)
    return sorted(file for file, top in own if not top.startswith(UNFINISHED) and top != "rows")


def _forget(runs: Path, bucket: Path) -> None:
    """Delete from the bucket what the run has deleted since: older checkpoints, and what became an artefact."""
    for partial in bucket.glob(f".*{PARTIAL}"):
        name = partial.name.removeprefix(".").removesuffix(PARTIAL)
        if (bucket / name / MANIFEST).is_file() and (runs / name / MANIFEST).is_file():
            _delete(partial)
            (bucket / f"{partial.name}.json").unlink(missing_ok=True)
        # Only what is older than a whole copy: a machine that could bring nothing back must not empty the bucket.
        saved = {c.name for c in _sealed(partial, MARKER)}
        here = {c.name for c in _sealed(runs / partial.name, MARKER)}
        newest = max((_step(name) for name in saved & here), default=-1)
        for old in (name for name in saved - here if _step(name) < newest):
            _delete(partial / old)


def _step(name: str) -> int:
    number = name.removeprefix(UNFINISHED)
    return int(number) if number.isdigit() else -1


def _delete(directory: Path) -> None:
    for seal in directory.rglob(MARKER):
        seal.unlink(missing_ok=True)  # first: a directory that is deleted in part must not look whole
    shutil.rmtree(directory, ignore_errors=True)


def _restored(source: Path, target: Path, seal: str) -> bool:
    if target.is_dir():
        return True
    unfinished = target.with_name(f".{target.name}.restoring")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for name, digest in _files(source, seal).items():
            _copy(source / name, unfinished / name)
            if sha256_file(unfinished / name) != digest:
                raise ValueError(f"{name} is not what {seal} says")
        _copy(source / seal, unfinished / seal)
        unfinished.rename(target)
    except (OSError, ValueError, KeyError) as error:
        log.warning("%s in the bucket is not whole (%s), and is left there", source, error)
        shutil.rmtree(unfinished, ignore_errors=True)
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def main(arguments: list[str]) -> int:
    """`python -m agentforge.export.bucket save RUNS BUCKET`, or `restore BUCKET RUNS`."""
    match arguments:
        case ["save", runs, bucket]:
            return 1 if save(Path(runs), Path(bucket)) else 0
        case ["restore", bucket, runs]:
            restore(Path(bucket), Path(runs))
            return 0
    raise UserError("give `save RUNS BUCKET` or `restore BUCKET RUNS`")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"agentforge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
