"""Artefacts that are used: killed, deleted, flipped, made again, moved."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import read_manifest, stage_directory
from agentforge.errors import CheckRefused
from agentforge.manifest import check_bytes, enclosing_artifact, fingerprint_input, input_path
from tests.manifests import flip, write_manifest

WEIGHTS = "model.safetensors"


def make(target: Path, base: Path | None = None, weights: str = "weights", log: str = "", **options: Any) -> bool:
    """Make a model, from another one if there is a base; tell whether there was anything to do."""
    inputs: dict[str, Path | str] = {"base": base} if base else {}
    with stage_directory(target, stage="train", recipe={"seed": 1}, inputs=inputs, **options) as work:
        if not work.done:
            (work.path / WEIGHTS).write_text(weights)
            (work.path / "config.json").write_text("{}")
            (work.path / "best").mkdir()
            (work.path / "best" / WEIGHTS).write_text("best")
            (work.path / "metrics.jsonl").write_text(log)
            work.identities = {"metrics.jsonl": None}
        return not work.done


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make(tmp_path / "runs" / "base")
    return tmp_path / "runs" / "base"


def test_without_its_weights_an_artefact_is_not_done(base: Path) -> None:
    (base / WEIGHTS).unlink()
    with pytest.raises(CheckRefused, match=rf"base is damaged: {WEIGHTS} is gone; restore it .* with --replace"):
        make(base)
    assert make(base, replace=True)
    assert not make(base)


def test_cut_weights_are_no_input_and_no_result(base: Path) -> None:
    (base / WEIGHTS).write_text("weigh")
    for target, source in ((base, None), (base.with_name("tuned"), base)):
        with pytest.raises(CheckRefused, match=f"{WEIGHTS} has 5 bytes instead of 7"):
            make(target, source)
    assert [path.name for path in base.parent.iterdir()] == ["base"]


def test_a_flipped_byte_is_no_input(base: Path) -> None:
    flip(base / WEIGHTS)
    with pytest.raises(CheckRefused, match=f"{WEIGHTS} has other bytes than were written"):
        make(base.with_name("tuned"), base)
    assert [path.name for path in base.parent.iterdir()] == ["base"]


def test_a_finished_artefact_needs_no_bytes_of_its_inputs(base: Path) -> None:
    make(base.with_name("tuned"), base)
    flip(base / WEIGHTS)
    assert not make(base.with_name("tuned"), base)


def test_part_of_an_artefact_is_checked_as_what_it_is(base: Path) -> None:
    check_bytes(base / "best")
    flip(base / WEIGHTS)
    check_bytes(base / "best")
    check_bytes(base / "best" / WEIGHTS)
    flip(base / "best" / WEIGHTS)
    for part in (base / "best", base / "best" / WEIGHTS):
        with pytest.raises(CheckRefused, match=f"best/{WEIGHTS} has other bytes"):
            check_bytes(part)


def test_a_manifest_of_another_program_makes_no_artefact(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "web extension"}')
    (tmp_path / "model").mkdir()
    assert enclosing_artifact(tmp_path / "model") is None
    check_bytes(tmp_path / "model")


def test_the_hubs_cache_says_what_its_files_are(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "main", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    # of "weights"
    blob = blobs / "9f5c29b0d8b3f3b8c1f7e8e5c9ad9b2d1f7a1e7a1d8ff2a1d4c3d0a6d8b1c2e3"
    blob.write_text("weights")
    (snapshot / WEIGHTS).symlink_to(blob)
    with pytest.raises(CheckRefused, match="other bytes than the Hub's"):
        check_bytes(snapshot)
    named = blobs / fingerprint_input(blob)
    (snapshot / WEIGHTS).unlink()
    blob.rename(named)
    (snapshot / WEIGHTS).symlink_to(named)
    check_bytes(snapshot)


def test_made_again_with_the_same_weights_it_is_the_same_input(base: Path) -> None:
    make(base, log="1 s")
    make(base.with_name("tuned"), base)
    shutil.rmtree(base)
    make(base, log="2 s")
    assert not make(base.with_name("tuned"), base), "only the log is another"
    shutil.rmtree(base)
    make(base, weights="others")
    with pytest.raises(CheckRefused, match="base has changed"):
        make(base.with_name("tuned"), base)


def test_moved_it_is_the_same_input(base: Path) -> None:
    tuned = base.with_name("tuned")
    make(tuned, base)
    moved = base.parent.rename(base.parent.with_name("elsewhere"))
    assert not make(moved / "tuned", moved / "base")
    assert input_path(moved / "tuned", read_manifest(moved / "tuned")["inputs"]["base"]) == moved / "base"


def test_a_model_of_others_is_known_by_what_is_read_of_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / WEIGHTS).write_text("weights")
    before = fingerprint_input(tmp_path)
    (tmp_path / "README.md").write_text("a model")
    assert fingerprint_input(tmp_path) == before
    for name in (WEIGHTS, "config.json", "tokenizer.json", "chat_template.jinja"):
        before = fingerprint_input(tmp_path)
        (tmp_path / name).write_text("changed")
        assert fingerprint_input(tmp_path) != before, name


def test_killed_between_the_two_renames_the_old_one_is_there_again(base: Path) -> None:
    base.rename(base.with_name(".base.old"))
    assert not make(base)
    assert (base / WEIGHTS).read_text() == "weights"


def test_a_stopped_replacement_goes_on(base: Path) -> None:
    for stopped in (True, False):
        with (
            pytest.raises(KeyboardInterrupt) if stopped else nullcontext(),
            stage_directory(base, stage="train", recipe={"seed": 2}, resumable=True, replace=True) as work,
        ):
            assert work.resumed == (not stopped)
            if stopped:
                (work.path / "checkpoint").write_text("step 100")
                raise KeyboardInterrupt
            assert (work.path / "checkpoint").read_text() == "step 100"
            assert (base / WEIGHTS).read_text() == "weights", "the old one stays in use until the end"


def test_what_is_not_worth_keeping_is_gone_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        stage_directory(
            tmp_path / "a", stage="train", recipe={}, resumable=True, worth_keeping=lambda partial: False
        ) as work,
    ):
        (work.path / "rows").write_text("packed")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_every_stage_says_why(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agentforge.artifacts")
    tuned = base.with_name("tuned")
    make(tuned, base)
    make(tuned, base)
    shutil.rmtree(base)
    make(base, weights="others")
    make(tuned, base, replace=True)
    os.truncate(tuned / WEIGHTS, 1)
    make(tuned, base, replace=True)
    assert [record.getMessage().replace(str(tuned), "tuned") for record in caplog.records if record.args] == [
        "making tuned",
        "tuned is up to date",
        f"making {base}",
        "making tuned again: base has changed",
        f"making tuned again: {WEIGHTS} has 1 bytes instead of 7",
    ]


def test_a_manifest_without_sizes_still_says_what_is_gone(tmp_path: Path) -> None:
    write_manifest(tmp_path, files={WEIGHTS: "0" * 64}, stage="train")
    with pytest.raises(CheckRefused, match="is gone"):
        fingerprint_input(tmp_path)
