"""What a Cognate tells of itself for `evaluate.diversity`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agentforge.evaluation.diversity.behaviour import behaviour_of
from agentforge.evaluation.evaluate import evaluate
from agentforge.systems.cognate.evaluation.behaviour import CognateBehaviour
from agentforge.systems.cognate.modeling.work import counted_work
from tests.evaluation.diversity.test_evaluate_diversity import findings_of
from tests.systems.cognate.trunks import recipe_on, trunk

IDS = torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(0))
INPUTS = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "use_cache": False}


@torch.no_grad()
def test_logits_steps_memory_and_operations_are_the_model_s_own() -> None:
    model = trunk(exit_threshold=0.6)
    own = behaviour_of(model)
    assert isinstance(own, CognateBehaviour)
    reading = own.read(INPUTS)
    out = model(**INPUTS)
    assert torch.allclose(reading.logits, out.logits, atol=1e-5)
    steps, memory, mflops = (reading.quantities[name] for name in ("steps", "memory", "mflops"))
    assert (steps == out.halting_steps).all() and 1 < steps.mean() < 3
    assert ((memory > 0) & (memory < 1)).all()
    with counted_work() as work:
        model(**INPUTS)
    assert float(mflops.mean()) == pytest.approx(work.flops / 1e6 / IDS.numel(), rel=1e-5)


@torch.no_grad()
def test_half_of_the_memories_are_half_as_much_memory() -> None:
    whole, half, none = (trunk(memory_layers=layers) for layers in ([0, 1, 2], [0], []))
    used = [float(behaviour_of(model).read(INPUTS).quantities["memory"].mean()) for model in (whole, half, none)]
    assert used[0] > 2 * used[1] > used[2] == 0


def test_a_model_without_halting_takes_all_steps() -> None:
    with torch.no_grad():
        reading = behaviour_of(trunk(halting="none")).read(INPUTS)
    assert (reading.quantities["steps"] == 3).all() and (reading.quantities["mflops"] > 0).all()


def test_thresholds_alone_make_models_differ_in_steps(tmp_path: Path) -> None:
    models: dict[str, Any] = {"reasoning": 0.99, "memory": 0.8, "speed": 0.3}
    for name, threshold in models.items():
        trunk(exit_threshold=threshold).save_pretrained(tmp_path / name)
    same = {f"seed {place}": str(tmp_path / "memory") for place in range(3)}
    asked = {"models": {name: str(tmp_path / name) for name in models}, "control": same, "speed": False}
    found = findings_of(evaluate(recipe_on(tmp_path, tmp_path / "speed", evaluate={"diversity": asked})))
    assert found["steps_spread"]["verdict"] == found["js"]["verdict"] == "differ more than seeds do"
    assert found["steps_spread"]["control"]["value"] == 0 and found["mflops_spread"]["models"]["value"] > 0
