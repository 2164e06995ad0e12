"""Which checkpoint a run goes on from, and what becomes of the others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agentforge.errors import CheckRefused
from agentforge.trainers.checkpoints import MARKER, has_sealed, newest_complete, seal


def make(directory: Path, step: int, sealed: bool = True) -> Path:
    checkpoint = directory / f"checkpoint-{step}"
    (checkpoint / "global_step").mkdir(parents=True)
    for name in (
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "global_step/shard.pt",
    ):
        (checkpoint / name).write_bytes(f"{name} {step}".encode() * 100)
    if sealed:
        seal(checkpoint, world_size=1)
    return checkpoint


def test_the_highest_number_is_the_newest(tmp_path: Path) -> None:
    make(tmp_path, 9), make(tmp_path, 100)
    assert newest_complete(tmp_path, world_size=1) == tmp_path / "checkpoint-100"


def test_none_is_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path, world_size=1) is None


@pytest.mark.fault("a torn save", "train", "the run goes on from the one before")
def test_a_torn_checkpoint_behind_a_whole_one_is_deleted_with_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, 10)
    make(tmp_path, 20, sealed=False)
    with caplog.at_level(logging.WARNING):
        assert newest_complete(tmp_path, world_size=1) == tmp_path / "checkpoint-10"
    assert "checkpoint-20 was not finished" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]  # the plan has no disk for another one


@pytest.mark.fault("a flipped bit", "a checkpoint", "the run goes on from the one before")
@pytest.mark.parametrize("damage", ["bit", "truncated", "marker"])
def test_an_altered_checkpoint_is_not_gone_on_from(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, 10)
    newest = make(tmp_path, 20)
    file = newest / (MARKER if damage == "marker" else "model.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[50] ^= 1
    file.write_bytes(content[: len(content) // 2] if damage != "bit" else content)
    assert newest_complete(tmp_path, world_size=1) == tmp_path / "checkpoint-10"
    assert "checkpoint-20 was altered" in caplog.text
    assert not newest.exists()


@pytest.mark.parametrize("marker", ["[]", "{}", '{"files": {}}', '{"world_size": 1}', '{"world_size": 1, "files": []}'])
def test_a_marker_that_makes_no_sense_is_damage(tmp_path: Path, marker: str) -> None:
    make(tmp_path, 10)
    (make(tmp_path, 20) / MARKER).write_text(marker)
    assert newest_complete(tmp_path, world_size=1) == tmp_path / "checkpoint-10"


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again_unasked(tmp_path: Path) -> None:
    for step in (10, 20):
        (make(tmp_path, step) / "model.safetensors").write_bytes(b"x")
    make(tmp_path, 30, sealed=False)
    with pytest.raises(CheckRefused, match=r"checkpoint-20 was altered.*--restart to lose 20 steps"):
        newest_complete(tmp_path, world_size=1)
    assert len(list(tmp_path.iterdir())) == 3  # nothing is touched: a user may restore the files
    assert newest_complete(tmp_path, world_size=1, restart=True) is None
    assert list(tmp_path.iterdir()) == []


def test_a_first_checkpoint_that_was_never_finished_is_no_loss(tmp_path: Path) -> None:
    make(tmp_path, 10, sealed=False)
    assert not has_sealed(tmp_path)
    assert newest_complete(tmp_path, world_size=1) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "global_step/shard.pt"]
)
def test_a_missing_state_stops_the_run(tmp_path: Path, name: str) -> None:
    make(tmp_path, 10)
    (make(tmp_path, 20) / name).unlink()
    with pytest.raises(CheckRefused, match=rf"checkpoint-20/{name} is missing"):
        newest_complete(tmp_path, world_size=1)


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    make(tmp_path, 10)
    with pytest.raises(CheckRefused, match="written by 1 processes, but this run has 2"):
        newest_complete(tmp_path, world_size=2)
