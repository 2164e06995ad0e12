"""What the operating system refuses is one sentence, however a library wraps it; a bug keeps its traceback."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from agentforge.artifacts import stage_directory, write_json
from agentforge.errors import CheckRefused, MachineRefused, UserError
from agentforge.system_errors import explain_system_error


def mount(place: Path, options: str) -> None:
    """Mount a file system of our own, which only root may, and not in every container."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    mount(place, "size=256k")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # torch keeps a file open for a moment


def write_safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.ones(10**6)}, path)


def write_torch(path: Path) -> None:
    import torch

    torch.save({"a": torch.ones(10**6)}, path)


def write_torch_through_a_file(path: Path) -> None:
    import torch

    with path.open("wb") as file:
        torch.save({"a": torch.ones(10**6)}, file)


def write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"{n:032}": n for n in range(20_000)}, unk_token=f"{0:032}")).save(str(path))


def write_numpy(path: Path) -> None:
    np.save(path, np.ones(10**6))


def write_parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": np.random.default_rng(0).random(10**5)}), path)


def write_text(path: Path) -> None:
    write_json(path, ["x" * 10**6])


@pytest.mark.fault("the disk is full", "a stage, in each library that writes", "one sentence, nothing half-made")
@pytest.mark.parametrize(
    "write",
    [
        write_safetensors,
        write_torch,
        write_torch_through_a_file,
        write_tokenizer,
        write_numpy,
        write_parquet,
        write_text,
    ],
)
def test_a_full_disk_is_one_sentence_whatever_library_meets_it(write: Callable[[Path], None], small_disk: Path) -> None:
    target = small_disk / "artefact"
    with pytest.raises(MachineRefused) as refused, stage_directory(target, stage="test", recipe={}) as work:
        write(work.path / "file.bin")
    assert str(refused.value).startswith(f"no space is left on the disk of {small_disk}")
    assert refused.value.exit_code == 1
    assert list(small_disk.iterdir()) == []


def make(target: Path) -> None:
    with stage_directory(target, stage="test", recipe={}) as work:
        (work.path / "file").write_text("x")


def test_a_read_only_file_system_is_one_sentence(tmp_path: Path) -> None:
    mount(tmp_path / "disk", "ro,size=64k")
    try:
        with pytest.raises(UserError, match="is on a read-only file system; set another `output_dir`"):
            make(tmp_path / "disk" / "runs" / "a")
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("file", "file leads through a file where a directory is needed"),
        ("file/a", "file exists and is not what is to be made there"),
        ("file/a/b", "file/a leads through a file where a directory is needed"),
        ("x" * 300, "is too long a name for the file system; shorten `name`"),
        ("x" * 300 + "/a", "is too long a name for the file system; shorten `name`"),
    ],
)
def test_a_place_where_nothing_can_be_made_is_refused_before_the_work(tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=says) as refused:
        make(tmp_path / target)
    assert refused.value.exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_of_somebody_else_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="no permission to read or write"):
        make(tmp_path / "a")
    tmp_path.chmod(0o700)


def raised(error: Exception, *, cause: Exception | None = None, context: Exception | None = None) -> Exception:
    """Return an error as it looks after ``raise ... from`` and after another one in an `except` clause."""
    error.__context__ = context
    if cause is not None:
        error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "no", "/a/b"), "no permission to read or write /a/b"),
        (OSError(errno.EMFILE, "too many"), "too many files are open"),
        (OSError(errno.EDQUOT, "quota"), "your disk quota is used up"),
        (raised(RuntimeError("wrapped"), cause=PermissionError(errno.EACCES, "no", "/a")), "no permission"),
        (raised(RuntimeError("after"), context=OSError(errno.ENOSPC, "full")), "no space is left"),
        (RuntimeError("x.cc:7] . open file failed with strerror: Is a directory"), "is a directory where a file"),
    ],
)
def test_what_a_user_can_mend_is_explained(error: BaseException, says: str) -> None:
    assert says in str(explain_system_error(error))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "no", "/a"),
        ZeroDivisionError("a bug"),
        # the code had coped with the missing permission, and then did something wrong
        raised(KeyError("a bug"), context=PermissionError(errno.EACCES, "no", "/a")),
        CheckRefused("is a sentence already"),
    ],
)
def test_everything_else_stays_as_it_is(error: BaseException) -> None:
    assert explain_system_error(error) is None
