"""A page with everything that is measured of a Cognate: branches, thresholds, a text, and whether models differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentforge.evaluation.diversity import evaluate_diversity
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.losses import decoding_speed
from agentforge.evaluation.pipeline_artifacts import PipelineArtifacts
from agentforge.evaluation.report.page import report
from agentforge.models.surgery import surgery
from agentforge.recipe.schema import Stage
from tests.evaluation.report.test_page import Strict
from tests.systems.cognate.trunks import recipe_on, trunk


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(decoding_speed, "TOKENS", 2)
    monkeypatch.setattr(decoding_speed, "TURNS", 1)
    monkeypatch.setattr(evaluate_diversity, "PROMPTS", 2)
    trunk(exit_threshold=0.6).save_pretrained(tmp_path / "trunk")
    trunk(seed=1, exit_threshold=0.6).save_pretrained(tmp_path / "other")
    chosen = {"operation": "branch", "branch": {"specialisation": "speed"}}
    asked: dict[str, Any] = {"loss": {"exit_thresholds": [0.5, 0.9], "speed": True}}
    branch = recipe_on(tmp_path, tmp_path / "trunk", surgery=chosen, evaluate=asked)
    made = surgery(branch)
    models = {"trunk": str(tmp_path / "trunk"), "speed": str(made)}
    control = {"seed 0": str(tmp_path / "trunk"), "seed 1": str(tmp_path / "other")}
    compared = {"diversity": {"models": models, "control": control}}
    diversity = recipe_on(tmp_path, tmp_path / "trunk", name="D", evaluate=compared)
    stages = [
        (Stage(verb="surgery"), branch),
        (Stage(verb="evaluate", model="speed"), branch),
        (Stage(verb="evaluate"), diversity),
    ]
    system = PipelineArtifacts(branch, stages)
    assert len(system.missing) == 2  # the evaluation and the comparison
    for stage, recipe in stages[1:]:
        evaluate(recipe, stage.model)
    assert system.missing == []
    return report(system)


def test_the_page_shows_all_of_it(page: Path) -> None:
    written = page.read_text(encoding="utf-8")
    text = " ".join(Strict(written).text)
    for said in (
        *("Loss against thinking", "What speed thinks about", "exit threshold", "MFLOP/token"),
        *("Do the models differ?", "steps spread", "latency ratio", "seeds alone", "what of its memory could stay"),
    ):
        assert said in text, said
    # the shares of steps are colours of the text's own tokens
    assert written.count("fill-opacity") > 10
