"""What the operating system refuses, as one sentence: a full disk, a read-only directory, a name that is too long.

A library may hide the error number: safetensors and tokenizers put it into the text of an exception of their own, torch
and numpy say only that fewer bytes were written than asked for.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentforge.errors import MachineRefused, UserError

NUMBER_IN_TEXT = re.compile(r"\((?:os )?error (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)  # Rust's and Arrow's
WORDS_IN_TEXT = re.compile(r"with strerror: (.+)")  # torch cannot open a file
# torch's and numpy's words for a short write. With a sound disk only a full one, or a quota, writes short.
SHORT_WRITE = re.compile(r"inline_container.*unexpected pos \d+ vs \d+|\d+ requested and \d+ written")

# of a GPU, and of the machine; Python's own is a MemoryError
OUT_OF_MEMORY = re.compile(r"(?:CUDA|HIP|MPS|XPU).{0,20}out of memory|DefaultCPUAllocator: can't allocate", re.I)

ANOTHER_PLACE = "move it away, or set another `output_dir` in the recipe"
NO_MEMORY = (
    "the memory is used up; lower train.args.per_device_train_batch_size (evaluate.batch_size, rollouts.batch_size) "
    "or data.max_length, set train.args.gradient_checkpointing, or use larger hardware (see `agentforge plan`)"
)
# The machine is out of something: the same command is right later.
SHORTAGES = {
    errno.ENOSPC: "no space is left on the disk of {path}; free some, then run the same command again",
    errno.EDQUOT: "your disk quota is used up at {path}; free some space, then run the same command again",
    errno.EMFILE: "too many files are open (limit {limit}); run `ulimit -n 65536`, then the same command again",
    errno.ENFILE: "the whole system has too many files open; stop other programs, then run the same command again",
}
# The path is wrong for what is to be done with it.
WRONG_PATHS = {
    errno.EACCES: "no permission to read or write {path}; change its permissions, or choose another place",
    errno.EROFS: "{path} is on a read-only file system; set another `output_dir` in the recipe",
    errno.ENAMETOOLONG: "{path} is too long a name for the file system; shorten `name` or `output_dir` in the recipe",
    errno.ENOTDIR: "{path} leads through a file where a directory is needed; " + ANOTHER_PLACE,
    errno.EEXIST: "{path} exists and is not what is to be made there; " + ANOTHER_PLACE,
    errno.EISDIR: "{path} is a directory where a file is needed; " + ANOTHER_PLACE,
}


@contextmanager
def system_errors_explained(path: Path) -> Iterator[None]:
    """Raise as `UserError` what the operating system refused to do at or below ``path``."""
    try:
        yield
    except Exception as error:
        if (refusal := explain_system_error(error, path)) is None:
            raise
        raise refusal from error


def explain_system_error(error: BaseException, path: Path | None = None) -> UserError | None:
    """Return the sentence for an error that a user can mend, or None for one that is a bug.

    Args:
        error: with its causes, because libraries wrap what they got.
        path: what was being made, for errors that do not name a path.
    """
    if isinstance(error, UserError):
        return None
    for inner, is_cause in _with_causes(error):
        if isinstance(inner, MemoryError) or OUT_OF_MEMORY.search(str(inner)):
            return MachineRefused(NO_MEMORY)
        number = _number_of(inner)
        # "While handling that error, another one": a bug in code that had coped with a missing permission stays a bug,
        # but a full disk is the reason for everything that fails after it.
        if number in SHORTAGES or (is_cause and number in WRONG_PATHS):
            return _refusal(number, _path_of(inner) or path)
    return None


def _with_causes(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    seen: set[int] = set()
    current: BaseException | None = error
    is_cause = True
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current, is_cause
        if current.__cause__ is not None:
            current = current.__cause__
        else:
            current, is_cause = (None if current.__suppress_context__ else current.__context__), False


def _number_of(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if SHORT_WRITE.search(text):
        return errno.ENOSPC
    if found := NUMBER_IN_TEXT.search(text):
        return int(found[1] or found[2])
    if found := WORDS_IN_TEXT.search(text):
        return next((number for number in WRONG_PATHS | SHORTAGES if os.strerror(number) == found[1].strip()), None)
    return None


def _path_of(error: BaseException) -> Path | None:
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else None


def _refusal(number: int, path: Path | None) -> UserError:
    shown = "the place that was written to" if path is None else str(path)
    shown = shown if len(shown) <= 120 else f"{shown[:60]}...{shown[-40:]}"
    if number in SHORTAGES:
        return MachineRefused(SHORTAGES[number].format(path=shown, limit=_open_files_limit()))
    return UserError(WRONG_PATHS[number].format(path=shown))


def _open_files_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
