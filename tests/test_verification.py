"""`agentforge verify`: every byte of an artefact and of all that it came from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentforge import file_hashes
from agentforge.artifacts import stage_directory
from agentforge.cli import app
from agentforge.errors import CheckRefused, UserError
from agentforge.verification import refuse_problems, verify
from tests.manifests import flip


@pytest.fixture
def merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows, a model trained on them, and a merged one, which also came from a base on the Hub."""
    monkeypatch.setenv("AGENTFORGE_CACHE", str(tmp_path / "cache"))
    runs = tmp_path / "runs"
    (tmp_path / "rows.jsonl").write_text("{}")
    for name, inputs in (("lora", {"rows": tmp_path / "rows.jsonl"}), ("merged", {"adapter": runs / "lora"})):
        given: dict[str, Path | str] = {**inputs, "base": "org/base@main"}
        with stage_directory(runs / name, stage=name, recipe={}, inputs=given) as work:
            (work.path / "model.safetensors").write_bytes(b"w" * file_hashes.REMEMBERED_FROM)
    return runs / "merged"


def test_all_is_sound_and_what_cannot_be_checked_is_said(merged: Path, tmp_path: Path) -> None:
    found = verify(merged)
    assert [(one.path, one.files, one.problems, one.unchecked) for one in found] == [
        (merged, 1, [], None),
        (Path("org/base@main"), 0, [], "known by its name only"),
        (merged.with_name("lora"), 1, [], None),
        (tmp_path / "rows.jsonl", 1, [], None),
    ]
    refuse_problems(found)


@pytest.mark.fault("a flipped bit", "a finished artefact, two stages back", "found by `verify`")
def test_a_flipped_byte_is_found_behind_two_stages_although_the_hash_is_remembered(
    merged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = merged.with_name("lora") / "model.safetensors"
    flip(weights, 1000)
    # a disk that decays changes no time
    file_hashes.remember(weights, file_hashes.sha256_file(merged / "model.safetensors"))
    with pytest.raises(CheckRefused, match=r"lora: model\.safetensors has other bytes than were written"):
        refuse_problems(verify(merged))
    assert file_hashes.known_sha256(weights) == file_hashes.sha256_file(weights), "now it is known"


@pytest.mark.fault("a file is cut, gone or added", "a finished artefact", "found by `verify`")
def test_what_is_gone_cut_changed_or_added_is_named(merged: Path, tmp_path: Path) -> None:
    lora = merged.with_name("lora")
    (merged / "model.safetensors").unlink()
    (merged / "chat_template.jinja").write_text("{{ another }}")
    os.truncate(lora / "model.safetensors", 5)
    (tmp_path / "rows.jsonl").write_text("[]")
    problems = {one.path: one.problems for one in verify(merged) if one.problems}
    assert problems == {
        merged: ["model.safetensors is gone", "chat_template.jinja is not in its manifest"],
        lora: ["model.safetensors has 5 bytes instead of 1,048,576"],
        tmp_path / "rows.jsonl": ["has changed since it was read"],
    }


def test_an_input_that_was_made_again_otherwise_is_named(merged: Path) -> None:
    lora = merged.with_name("lora")
    with stage_directory(lora, stage="lora", recipe={"seed": 2}, replace=True) as work:
        (work.path / "model.safetensors").write_text("others")
    (first, *others) = verify(merged)
    assert first.problems == [f"its input 'adapter' ({lora}) has other contents now than when it was read"]
    assert not any(one.problems for one in others)


def test_moved_together_they_are_found(merged: Path, tmp_path: Path) -> None:
    moved = merged.parent.rename(tmp_path / "elsewhere")
    (tmp_path / "rows.jsonl").unlink()
    found = verify(moved / "merged")
    assert {one.path for one in found if one.unchecked is None} == {moved / "merged", moved / "lora"}
    assert [one.unchecked for one in found if one.what == "rows"] == ["is not here any more"]


def test_a_directory_that_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a finished artefact"):
        verify(tmp_path)


def test_the_verb(merged: Path) -> None:
    sound = CliRunner().invoke(app, ["verify", str(merged)])
    assert sound.exit_code == 0 and "sound" in sound.output
    flip(merged.with_name("lora") / "model.safetensors")
    damaged = CliRunner().invoke(app, ["verify", str(merged)])
    assert isinstance(damaged.exception, CheckRefused) and damaged.exception.exit_code == 3
    assert "has other bytes than were written" in damaged.output
