"""Stage directories: complete or not at all, whatever happens in between."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import (
    MANIFEST,
    atomic_file,
    fingerprint_input,
    read_manifest,
    sha256_file,
    stage_directory,
    write_text,
)
from agentforge.errors import CheckRefused, UserError


def make(target: Path, text: str = "weights", recipe: dict[str, Any] | None = None, **options: Any) -> bool:
    """Make an artefact; tell whether there was anything to do."""
    with stage_directory(target, stage="test", recipe=recipe or {"seed": 1}, **options) as work:
        if not work.done:
            (work.path / "file").write_text(text)
            work.metrics["loss"] = 0.5
        return not work.done


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_a_finished_stage_has_a_manifest_and_is_not_made_twice(tmp_path: Path) -> None:
    target = tmp_path / "runs" / "a"
    assert make(target)
    manifest = read_manifest(target)
    assert manifest["files"] == {"file": sha256_file(target / "file")}
    assert manifest["metrics"] == {"loss": 0.5}
    assert not make(target, "something else")
    assert (target / "file").read_text() == "weights"
    assert beside(target) == []


def test_another_recipe_is_refused_and_named_unless_it_shall_replace(tmp_path: Path) -> None:
    target = tmp_path / "a"
    make(target, recipe={"train": {"lr": 1}})
    with pytest.raises(CheckRefused, match=r"train\.lr: 1 -> 2"):
        make(target, recipe={"train": {"lr": 2}})
    assert make(target, "new", recipe={"train": {"lr": 2}}, replace=True)
    assert (target / "file").read_text() == "new"
    assert beside(target) == []


def test_changed_inputs_are_noticed(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("1")
    make(tmp_path / "a", inputs={"rows": source})
    source.write_text("2")
    with pytest.raises(CheckRefused, match="rows has changed"):
        make(tmp_path / "a", inputs={"rows": source})


def test_a_failing_stage_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), stage_directory(tmp_path / "a", stage="test", recipe={}) as work:
        (work.path / "half").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failing_replacement_leaves_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), stage_directory(tmp_path / "a", stage="test", recipe={}, replace=True):
        raise RuntimeError
    assert (tmp_path / "a" / "file").read_text() == "old"


def stop_in(target: Path, recipe: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt), stage_directory(target, stage="test", recipe=recipe, resumable=True) as work:
        (work.path / "checkpoint").write_text("step 100")
        raise KeyboardInterrupt


def test_a_resumable_stage_finds_what_it_left(tmp_path: Path) -> None:
    target = tmp_path / "a"
    stop_in(target, {"steps": 5})
    with stage_directory(target, stage="test", recipe={"steps": 5}, resumable=True) as work:
        assert work.resumed
        assert (work.path / "checkpoint").read_text() == "step 100"
    assert beside(target) == []


@pytest.mark.fault("kill -9", "a resumable stage, while it writes a file", "no half of it is published", times=3)
def test_what_a_killed_process_was_writing_is_in_no_artefact(tmp_path: Path) -> None:
    """Killed while it wrote a file of the artefact, a file below, or the record of what it makes."""
    target, script = tmp_path / "a", "from tests.test_artifacts import killed_in; import sys; killed_in(sys.argv[1])"
    for when in ("file", "below/file", "record"):
        command = [sys.executable, "-c", script, f"{target}:{when}"]
        assert subprocess.run(command, cwd=Path(__file__).parents[1]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.rglob(".file.*"))) == 1 and len(list(tmp_path.glob("..a.partial.json.*"))) == 1
    with stage_directory(target, stage="test", recipe={"n": 1}, resumable=True) as work:
        (work.path / "done").touch()
    assert {path.name for path in target.iterdir()} == {"done", "manifest.json", "below"} and beside(target) == []
    assert not list(target.rglob(".*"))


def killed_in(where: str) -> None:
    """Begin a stage and die while a file is being written."""
    target, _, when = where.partition(":")
    if when == "record":
        partial = Path(target).with_name(f".{Path(target).name}.partial.json")
        write_and_die(partial)
    with stage_directory(Path(target), stage="test", recipe={"n": 1}, resumable=True) as work:
        write_and_die(work.path / when)


def write_and_die(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_paid_for_checkpoint_is_not_thrown_away_for_another_recipe(tmp_path: Path) -> None:
    target = tmp_path / "a"
    stop_in(target, {"steps": 5})
    with pytest.raises(CheckRefused, match="steps: 5 -> 6"):
        make(target, recipe={"steps": 6}, resumable=True)
    assert (tmp_path / ".a.partial" / "checkpoint").read_text() == "step 100"
    assert make(target, recipe={"steps": 6}, resumable=True, replace=True)
    assert not (target / "checkpoint").exists()


def test_what_a_stopped_run_left_before_its_first_checkpoint_blocks_no_other_recipe(tmp_path: Path) -> None:
    target = tmp_path / "a"
    stop_in(target, {"steps": 5})
    assert make(target, recipe={"steps": 6}, resumable=True, worth_keeping=lambda partial: False)
    assert not (target / "checkpoint").exists()
    assert beside(target) == []


def test_a_damaged_record_of_a_stopped_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    target = tmp_path / "a"
    stop_in(target, {"steps": 5})
    (tmp_path / ".a.partial.json").write_text("[]")
    with pytest.raises(CheckRefused, match="its record is damaged"):
        make(target, recipe={"steps": 5}, resumable=True)
    assert make(target, recipe={"steps": 5}, resumable=True, replace=True)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", "\udcff"])
def test_a_damaged_manifest_is_refused_in_a_sentence(tmp_path: Path, manifest: str) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / MANIFEST).write_bytes(manifest.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        make(tmp_path / "a")
    assert make(tmp_path / "a", replace=True)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_replacement_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "a", "old")
    rename = os.replace

    def interrupted(source: Path, target: Path) -> None:
        if source.name == ".a.partial":
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a", "new", recipe={"seed": 2}, replace=True)
    assert (tmp_path / "a" / "file").read_text() == "old"
    assert beside(tmp_path / "a") == []


def hold(target: Path, entered: Any, leave: Any) -> None:
    with stage_directory(target, stage="test", recipe={}) as work:
        (work.path / "file").write_text("x")
        entered.set()
        leave.wait()


def test_two_processes_do_not_make_the_same_directory(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    entered, leave = fork.Event(), fork.Event()
    first = fork.Process(target=hold, args=(tmp_path / "a", entered, leave))
    first.start()
    assert entered.wait(20)
    with pytest.raises(UserError, match="another process is making"):
        make(tmp_path / "a")
    os.kill(first.pid or 0, signal.SIGKILL)
    first.join()
    assert make(tmp_path / "a")  # the lock of a dead process holds nobody off
    assert beside(tmp_path / "a") == []


def test_inputs_are_known_by_their_content(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    assert fingerprint_input(tmp_path / "a") == fingerprint_input(tmp_path / "b")
    assert fingerprint_input(tmp_path / "a") == read_manifest(tmp_path / "a")["content"]
    with pytest.raises(UserError, match="does not exist"):
        fingerprint_input(tmp_path / "c")


def test_a_directory_without_a_manifest_is_no_artefact(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / MANIFEST).unlink()
    with pytest.raises(UserError, match="not a finished artefact"):
        read_manifest(tmp_path / "a")
