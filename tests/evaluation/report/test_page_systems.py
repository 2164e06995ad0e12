"""A system's own experiment stands on the page of any recipe in whose output directory it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentforge.artifacts import stage_directory
from agentforge.evaluation.pipeline_artifacts import PipelineArtifacts
from agentforge.evaluation.report import page_systems
from agentforge.evaluation.report.page import report
from agentforge.systems.base import System
from tests.evaluation.toy import toy_recipe


def sections(artifacts: Sequence[Path]) -> list[dict[str, Any]]:
    text = "; ".join((path / "found.txt").read_text() for path in artifacts)
    return [
        {"id": "mine", "title": "My <i>experiment</i>", "explanation": text, "charts": [], "tables": [], "tiles": []}
    ]


def experiment(directory: Path, name: str, stage: str, found: str) -> None:
    with stage_directory(directory / name, stage=stage, recipe={"found": found}, replace=True) as work:
        (work.path / "found.txt").write_text(found)


def test_a_systems_stage_is_shown_and_the_page_is_drawn_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = System(name="mine", report={"my-experiment": f"{__name__}:sections"})
    monkeypatch.setattr(page_systems, "all_systems", lambda: (mine,))
    recipe = toy_recipe(tmp_path)
    pipeline = PipelineArtifacts(recipe, [])
    assert "My " not in report(pipeline).read_text(), "nothing of that stage is there yet"
    directory = Path(recipe.output_dir)
    experiment(directory, "b-first", "my-experiment", "one < two")
    experiment(directory, "a-second", "my-experiment", "second")
    experiment(directory, "other", "another-stage", "never shown")
    text = report(pipeline).read_text()
    assert "My &lt;i&gt;experiment&lt;/i&gt;" in text and "never shown" not in text
    assert "one &lt; two" in text and "second" in text
    experiment(directory, "a-second", "my-experiment", "third")
    assert "third" in report(pipeline).read_text()


def test_without_such_a_system_no_manifest_is_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_systems, "all_systems", lambda: (System(name="plain"),))
    monkeypatch.setattr(page_systems, "read_manifest", lambda path: pytest.fail(f"{path} was read"))
    recipe = toy_recipe(tmp_path)
    experiment(Path(recipe.output_dir), "x", "my-experiment", "x")
    assert page_systems.shown_by_systems([recipe]) == []
