"""`train.optimizer` is checked when the recipe is loaded: names, options, and what does not go together."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from agentforge.recipe.arguments import argument_problems
from agentforge.recipe.optimizers import OPTIMIZERS, filled_in
from agentforge.recipe.schema import Recipe


def problems(optimizer: dict[str, Any], **train: Any) -> str:
    recipe = Recipe.model_validate({"name": "x", "train": {"method": "sft", "optimizer": optimizer, **train}})
    return "\n".join(text for _, text in argument_problems(recipe))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grokfast_lamda": 2.0}, "mugrokfast has no such option; did you mean 'grokfast_lambda'?"),
        ({"grokfast_lambda": -2.0}, "grokfast_lambda is -2.0; it must be at least 0"),
        ({"momentum": 1.0}, "momentum is 1.0; it must be below 1"),
        ({"qk_clip": "30"}, "it must be a number, not text: write it without quotes"),
        ({"preset": "phase2"}, "it must be one of phase1, phase3, phase5, phase6, phase7"),
        ({"adamw": "*.gate.*"}, "it must be a list"),
        ({"preset": "phase1", "qk_clip": None, "nesterov": False}, ""),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    found = problems({"name": "mugrokfast", "options": options})
    assert said in found and (said or not found)


def test_names_and_what_does_not_go_together() -> None:
    assert "there is no optimiser 'mugrokfst'; did you mean 'mugrokfast'?" in problems({"name": "mugrokfst"})
    assert "both choose an optimiser" in problems({"name": "mugrokfast"}, args={"optim": "sgd"})
    assert "mugrokfast does not train LoRA: Muon bounds" in problems({"name": "mugrokfast"}, lora={"r": 4})


def test_every_preset_fits_its_options_and_gives_way_to_them() -> None:
    for house in OPTIMIZERS.values():
        for name in house.presets:
            house.options.model_validate(filled_in({"preset": name}, house.presets))
    assert filled_in({"preset": "phase1", "qk_clip": None})["qk_clip"] is None


def test_reading_them_needs_no_torch() -> None:
    code = "import sys, agentforge.recipe.arguments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
