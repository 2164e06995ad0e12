"""A large file is read once, and again as soon as anybody has written to it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from agentforge import file_hashes
from agentforge.file_hashes import REMEMBERED_FROM, known_sha256, remember

LARGE = b"w" * REMEMBERED_FROM


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to be hashed, with a cache of the test's own."""
    monkeypatch.setenv("AGENTFORGE_CACHE", str(tmp_path / "cache"))
    read: list[Path] = []
    sha256_file = file_hashes.sha256_file

    def counted(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr(file_hashes, "sha256_file", counted)
    return read


def test_a_large_file_is_read_once_per_machine(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(LARGE)
    assert known_sha256(file) == hashlib.sha256(LARGE).hexdigest()
    (tmp_path / "link").symlink_to(file)
    assert known_sha256(tmp_path / "link") == hashlib.sha256(LARGE).hexdigest()
    assert reads == [file]


def test_a_changed_byte_is_seen_although_size_and_time_are_set_back(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(LARGE)
    before = file.stat()
    known_sha256(file)
    file.write_bytes(b"x" + LARGE[1:])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert known_sha256(file) == hashlib.sha256(b"x" + LARGE[1:]).hexdigest()
    assert len(reads) == 2


def test_small_files_are_not_remembered(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    assert known_sha256(file) == known_sha256(file)
    assert len(reads) == 2 and not (tmp_path / "cache").exists()


def test_what_was_just_written_need_not_be_read(tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "weights"
    file.write_bytes(LARGE)
    remember(file, hashlib.sha256(LARGE).hexdigest())
    assert known_sha256(file) == hashlib.sha256(LARGE).hexdigest()
    assert reads == []


def test_a_cache_that_cannot_be_written_to_stops_nothing(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "occupied").write_text("")
    monkeypatch.setenv("AGENTFORGE_CACHE", str(tmp_path / "occupied"))
    file = tmp_path / "weights"
    file.write_bytes(LARGE)
    assert known_sha256(file) == known_sha256(file) == hashlib.sha256(LARGE).hexdigest()
    assert len(reads) == 2
