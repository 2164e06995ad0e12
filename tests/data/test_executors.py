"""Who works on `prepare`, and how often it was stopped, changes no byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import read_manifest
from agentforge.data import executors
from agentforge.data import prepare as stage
from agentforge.data.cleaning.ingest import Ingestor
from agentforge.data.journal import journaled, lasted
from agentforge.data.prepare import prepare
from agentforge.data.tokenise import Tokeniser
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.schema import Recipe
from tests.data.test_prepare import rows_file, tokenizer_path  # noqa: F401  fixtures


@pytest.fixture
def recipe(rows_file: str, tokenizer_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:  # noqa: F811
    """Forty chunks of five rows."""
    monkeypatch.setattr(stage, "CHUNK_ROWS", 5)
    return named("whole", rows_file, tokenizer_path, tmp_path)


def named(name: str, rows: str, tokenizer: str, directory: Path, **data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": name,
            "output_dir": str(directory / "runs"),
            "model": {"tokenizer": tokenizer},
            "data": {"mix": [{"dataset": rows}], "workers": 1, "eval_fraction": 0.1, **data},
        }
    )


def content(recipe: Recipe) -> dict[str, str]:
    files: dict[str, str] = read_manifest(prepare(recipe))["files"]
    return files


def counted(monkeypatch: pytest.MonkeyPatch, worker: type, fail_at: int | None = None) -> list[int]:
    """Count the chunks that a worker works on; at one of them the run is stopped."""
    original, calls = worker.__call__, [0]

    def call(self: Any, task: Any) -> Any:
        calls[0] += 1
        if calls[0] == fail_at:
            raise KeyboardInterrupt
        return original(self, task)

    monkeypatch.setattr(worker, "__call__", call)
    return calls


@pytest.mark.fault("stopped", "prepare, while it reads and while it tokenises", "only the rest is worked on", times=2)
def test_a_stopped_run_is_continued_and_nothing_is_worked_out_twice(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(recipe)
    victim = recipe.model_copy(update={"name": "stopped"})
    monkeypatch.setattr(executors, "WORTH", -1.0)
    done = {}
    for worker, at in ((Ingestor, 13), (Tokeniser, 7)):
        with monkeypatch.context() as patched:
            done[worker] = counted(patched, worker, at)
            with pytest.raises(KeyboardInterrupt):
                prepare(victim)
    read, tokenised = counted(monkeypatch, Ingestor), counted(monkeypatch, Tokeniser)
    assert content(victim) == whole
    assert read == [0] and tokenised == [40 - 6]
    partial = victim.artifact("data").with_name(f".{victim.artifact('data').name}.partial")
    assert not partial.exists() and not list(victim.artifact("data").glob(".*"))


def test_what_is_soon_made_again_stands_in_nobodys_way(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped within minutes, or refused, leaves nothing that another recipe would have to replace."""
    with monkeypatch.context() as patched:
        counted(patched, Ingestor, 13)
        with pytest.raises(KeyboardInterrupt):
            prepare(recipe)
    assert not list(Path(recipe.output_dir).glob(".*partial*"))
    monkeypatch.setattr(executors, "WORTH", 0.0)
    wrong = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_length": 2})})
    with pytest.raises(CheckRefused, match="no rows are left"):
        prepare(wrong)
    assert not list(Path(recipe.output_dir).glob(".*partial*"))


def doubled(tasks: Any) -> Iterator[int]:
    return (2 * task for task in tasks)


@pytest.mark.fault("a torn journal", "prepare, cut at each of its bytes", "the same results", times=1)
def test_a_journal_that_was_cut_anywhere_gives_the_same_results(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert list(journaled(doubled, range(4), whole)) == [0, 2, 4, 6] and lasted(whole) >= 0
    written = whole.read_bytes()
    for length in range(len(written)):
        cut = tmp_path / "cut"
        cut.write_bytes(written[:length])
        assert list(journaled(doubled, range(4), cut)) == [0, 2, 4, 6]
        cut.write_bytes(written[:length] + b"?" + written[length + 1 :])
        assert list(journaled(doubled, range(4), cut)) == [0, 2, 4, 6]
        assert list(journaled(explode, range(4), cut)) == [0, 2, 4, 6], "and is whole again"


def explode(tasks: Any) -> Iterator[int]:
    assert next(iter(tasks), None) is None, "all are known"
    return iter(())


@pytest.fixture
def cluster() -> Iterator[None]:
    """A Ray of two workers on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'agentforge-train[ray]')")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.timeout(600)
def test_a_ray_cluster_makes_the_same_bytes(recipe: Recipe, cluster: None) -> None:
    there = recipe.model_copy(update={"name": "there", "data": recipe.data.model_copy(update={"ray": "auto"})})
    assert content(there) == content(recipe)


def test_without_ray_it_is_one_sentence(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    there = recipe.model_copy(update={"data": recipe.data.model_copy(update={"ray": "auto"})})
    with pytest.raises(UserError, match=r"Ray is not installed; pip install 'agentforge-train\[ray\]'"):
        prepare(there)
    assert not list(Path(recipe.output_dir).glob(".*partial*"))
