"""A copy in a bucket: only what is whole goes out and comes back, whatever breaks off in between."""

from __future__ import annotations

import errno
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentforge.artifacts import hash_files, stage_directory
from agentforge.export import bucket as bucket_module
from agentforge.export.bucket import main, restore, save
from agentforge.trainers.checkpoints import MARKER, newest_complete, seal

PARTIAL = ".A-v1.0.0-lora.partial"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A finished artefact, and a training with two sealed checkpoints and one that is being written."""
    place = tmp_path / "runs"
    with stage_directory(place / "A-v1.0.0-data", stage="prepare", recipe={}) as work:
        (work.path / "tokenizer").mkdir()
        (work.path / "tokenizer" / "t.json").write_text("{}")
        (work.path / "rows").write_bytes(b"1234")
    (place / PARTIAL).mkdir()
    (place / f"{PARTIAL}.json").write_text('{"stage": "train"}')
    (place / PARTIAL / "metrics.jsonl").write_text('{"step": 4}\n')
    (place / PARTIAL / "rows").mkdir()
    (place / PARTIAL / "rows" / "packed.arrow").write_bytes(b"0" * 100)
    for step in (4, 8):
        write_checkpoint(place, step)
    write_checkpoint(place, 12, sealed=False)
    return place


def write_checkpoint(runs: Path, step: int, sealed: bool = True, content: str = "weights") -> Path:
    place = runs / PARTIAL / f"checkpoint-{step}"
    place.mkdir(exist_ok=True)
    (place / "adapter.bin").write_text(f"{content} {step}")
    (place / "z.bin").write_text(f"optimizer {step}")
    if sealed:
        seal(place, world_size=1)
    return place


def test_what_is_whole_comes_back(runs: Path, tmp_path: Path) -> None:
    assert save(runs, tmp_path / "bucket") == 0
    assert restore(tmp_path / "bucket", tmp_path / "new") == []
    found = hash_files(tmp_path / "new")
    assert found["A-v1.0.0-data/rows"] and f"{PARTIAL}.json" in found and f"{PARTIAL}/metrics.jsonl" in found
    assert not any("checkpoint-12" in name or "packed" in name for name in found), "one that was being written"
    before = hash_files(runs)
    assert all(before[name] == digest for name, digest in found.items())
    assert newest_complete(tmp_path / "new" / PARTIAL, world_size=1) == tmp_path / "new" / PARTIAL / "checkpoint-8"


@pytest.mark.fault("a checkpoint is deleted while it is copied", "bucket", "the others are saved")
def test_a_checkpoint_that_is_deleted_while_it_is_copied_harms_nothing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = bucket_module._copy

    def pruning(source: Path, target: Path) -> None:
        if source.name == "z.bin" and source.parent.name == "checkpoint-4":
            shutil.rmtree(source.parent)
        copy(source, target)

    monkeypatch.setattr(bucket_module, "_copy", pruning)
    assert save(runs, tmp_path / "bucket") == 1, "counted, and the others are saved"
    assert not (tmp_path / "bucket" / PARTIAL / "checkpoint-4" / MARKER).exists()
    assert restore(tmp_path / "bucket", tmp_path / "new") == []
    assert {c.name for c in (tmp_path / "new" / PARTIAL).glob("checkpoint-*")} == {"checkpoint-8"}


@pytest.mark.fault("a torn copy", "bucket", "only what is whole comes back")
@pytest.mark.parametrize("damage", ["missing", "half", "seal"])
def test_a_torn_copy_does_not_come_back(runs: Path, tmp_path: Path, damage: str) -> None:
    """A bucket uploads in its own order: the seal may arrive before what it seals."""
    save(runs, tmp_path / "bucket")
    torn = tmp_path / "bucket" / PARTIAL / "checkpoint-8"
    if damage == "missing":
        (torn / "z.bin").unlink()
    elif damage == "half":
        (torn / "z.bin").write_text("optim")
    else:
        (torn / MARKER).write_text("{")
    (tmp_path / "bucket" / "A-v1.0.0-data" / "rows").write_bytes(b"12")
    assert restore(tmp_path / "bucket", tmp_path / "new") == ["A-v1.0.0-data", "checkpoint-8"]
    assert newest_complete(tmp_path / "new" / PARTIAL, world_size=1) == tmp_path / "new" / PARTIAL / "checkpoint-4"
    assert not (tmp_path / "new" / "A-v1.0.0-data").exists()


@pytest.mark.fault(
    "a bucket fails", "at each file of a copy", "only what is whole comes back; the next copy is whole", times=8
)
def test_a_bucket_that_fails_at_any_file_harms_nothing(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, before = bucket_module._copy, hash_files(runs)
    for good in range(8):
        bucket, new, left = tmp_path / f"bucket-{good}", tmp_path / f"new-{good}", [good]

        def failing(source: Path, target: Path, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes()[:3])
                raise OSError(errno.EIO, "the bucket is away")
            copy(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(bucket_module, "_copy", failing)
            assert save(runs, bucket) > 0
        restore(bucket, new)
        assert all(before[name] == digest for name, digest in hash_files(new).items() if "metrics" not in name)
        assert save(runs, bucket) == 0
        assert restore(bucket, tmp_path / f"again-{good}") == []
        assert newest_complete(tmp_path / f"again-{good}" / PARTIAL, world_size=1) is not None


@pytest.mark.fault("a bucket is slow", "the last copy begins before the one before has ended", "both end, all is there")
def test_a_slow_bucket_is_waited_for(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, copied = bucket_module._copy, []

    def slow(source: Path, target: Path) -> None:
        time.sleep(0.05)
        copied.append(target)
        copy(source, target)

    monkeypatch.setattr(bucket_module, "_copy", slow)
    with ThreadPoolExecutor(2) as pool:
        first, last = (pool.submit(save, runs, tmp_path / "bucket") for _ in range(2))
        assert (first.result(), last.result()) == (0, 0)
    sealed = [path for path in copied if "checkpoint-" in str(path)]
    assert len(sealed) == len(set(sealed)), "the second finds what the first has copied"
    assert restore(tmp_path / "bucket", tmp_path / "new") == []
    assert newest_complete(tmp_path / "new" / PARTIAL, world_size=1) == tmp_path / "new" / PARTIAL / "checkpoint-8"


def test_a_checkpoint_of_the_same_name_replaces_the_old_one(runs: Path, tmp_path: Path) -> None:
    save(runs, tmp_path / "bucket")
    write_checkpoint(runs, 8, content="other weights")
    save(runs, tmp_path / "bucket")
    assert (tmp_path / "bucket" / PARTIAL / "checkpoint-8" / "adapter.bin").read_text() == "other weights 8"


def test_the_bucket_forgets_what_the_run_has_deleted_but_an_empty_machine_deletes_nothing(
    runs: Path, tmp_path: Path
) -> None:
    bucket = tmp_path / "bucket"
    save(runs, bucket)
    before = hash_files(bucket)
    save(tmp_path / "empty", bucket)
    assert hash_files(bucket) == before
    shutil.rmtree(runs / PARTIAL / "checkpoint-4")
    write_checkpoint(runs, 12)
    save(runs, bucket)
    assert {c.name for c in (bucket / PARTIAL).glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-12"}
    shutil.rmtree(runs / PARTIAL)
    (runs / f"{PARTIAL}.json").unlink()
    with stage_directory(runs / "A-v1.0.0-lora", stage="train", recipe={}) as work:
        (work.path / "adapter").write_text("done")
    save(runs, bucket)
    assert {p.name for p in bucket.iterdir()} == {"A-v1.0.0-data", "A-v1.0.0-lora"}


def test_what_is_here_stays(runs: Path, tmp_path: Path) -> None:
    save(runs, tmp_path / "bucket")
    write_checkpoint(runs, 8, content="newer")
    restore(tmp_path / "bucket", runs)
    assert "newer" in (runs / PARTIAL / "checkpoint-8" / "adapter.bin").read_text()


def test_on_the_command_line(runs: Path, tmp_path: Path) -> None:
    assert main(["save", str(runs), str(tmp_path / "b")]) == 0
    assert main(["restore", str(tmp_path / "b"), str(tmp_path / "n")]) == 0
    manifest = json.loads((tmp_path / "n" / "A-v1.0.0-data" / "manifest.json").read_text())
    assert manifest["stage"] == "prepare"
