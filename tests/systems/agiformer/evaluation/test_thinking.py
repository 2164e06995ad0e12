"""What the thinking steps are worth: measured, in words, and on a report's page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from agentforge.errors import UserError
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.own_scores import Figure
from agentforge.evaluation.pipeline_artifacts import PipelineArtifacts
from agentforge.evaluation.report.page import report
from agentforge.recipe.schema import Recipe, Stage
from agentforge.systems.agiformer.evaluation.verdict import THINKING, verdict
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.tokenizer import AgiformerTokenizer
from tests.evaluation.report.test_page import Strict

STEPS = 2


def saved(path: Path, seed: int, **options: Any) -> str:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "window_size": 4, "byte_window": 6}
    AgiformerForCausalLM(AgiformerConfig(**sizes, **options)).save_pretrained(path)
    AgiformerTokenizer().save_pretrained(path)
    return str(path)


def recipe_of(tmp_path: Path, **controls: str) -> Recipe:
    (tmp_path / "text.txt").write_text("A patch is read when its last byte is there. " * 30, encoding="utf-8")
    model = saved(tmp_path / "model", 0, thinking_steps=STEPS, thinking_halting="expected", exit_threshold=0.6)
    return Recipe.model_validate(
        {
            "name": "T",
            "output_dir": str(tmp_path / "runs"),
            "model": {"path": model, "dtype": "float32"},
            "evaluate": {
                "bpc": {"text": {"dataset": str(tmp_path / "text.txt")}, "context": 64, "compressors": False},
                "thinking": {"rows": 8, "controls": controls},
            },
        }
    )


def test_a_model_is_read_after_each_step_and_stands_on_the_page(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, **{"equal parameters": saved(tmp_path / "control", 1, thinking_steps=0)})
    made = evaluate(recipe, recipe.model.path)
    found = json.loads((made / THINKING).read_text(encoding="utf-8"))
    figures = found["figures"]
    assert {f"after {step} steps" for step in range(STEPS + 1)} <= set(figures)
    assert figures["after 0 steps"]["value"] == pytest.approx(8, abs=0.5), "nothing was trained"
    difference = figures["without steps, equal parameters"]["value"] - figures["after 2 steps"]["value"]
    assert figures["gain over equal parameters"]["value"] == pytest.approx(difference)
    assert sum(found["stops"]) == 8 * 63 and len(found["stops"]) == STEPS + 1
    page = report(PipelineArtifacts(recipe, [(Stage(verb="evaluate", model=recipe.model.path), recipe)]))
    written = page.read_text(encoding="utf-8")
    text = " ".join(Strict(written).text)
    for said in (
        *("What the thinking steps of", f"Verdict: {found['verdict']}", "Bits per byte after each number of steps"),
        *(
            "Change by each step",
            "stops thinking",
            "trained without steps, equal parameters",
            "of 504 bytes stop after",
        ),
    ):
        assert said in text, said


def test_a_control_that_thinks_is_refused(tmp_path: Path) -> None:
    thinking = saved(tmp_path / "control", 1, thinking_steps=1)
    with pytest.raises(UserError, match="has thinking steps; a control is trained without them"):
        evaluate(recipe := recipe_of(tmp_path, bad=thinking), recipe.model.path)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.03, "0.0200 bits per byte better than x"),
        (-0.03, -0.01, "0.0200 bits per byte worse than x"),
        (-0.01, 0.05, "no measurable effect against x"),
    ],
)
def test_nothing_is_claimed_whose_interval_holds_zero(low: float, high: float, said: str) -> None:
    gain = Figure((low + high) / 2, low, high, 100)
    assert verdict({"gain over x": gain}) == said


def test_without_controls_nothing_is_claimed() -> None:
    assert verdict({"gain of the steps": Figure(1.0, 0.9, 1.1, 100)}).startswith("no control")
