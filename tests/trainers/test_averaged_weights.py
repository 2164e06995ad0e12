"""The average against a slow loop; a run that keeps one publishes it, and goes on exactly after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from agentforge.trainers.averaged_weights import AveragedWeights
from agentforge.trainers.guarded_trainer import GuardedTrainer
from agentforge.trainers.train import train
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import figures


def test_it_is_the_average_of_the_formula_and_the_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    average = AveragedWeights(layer, 0.5)
    expected = layer.weight.detach().double().clone()
    for step in range(1, 7):
        with torch.no_grad():
            layer.weight.add_(torch.randn(2, 3))
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach().double()
    trained, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    with average.swapped_in():
        torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(layer.weight, trained) and torch.equal(layer.bias, bias)
    average.save(tmp_path / "average.safetensors")
    again = AveragedWeights(layer, 0.5)
    again.load(tmp_path / "average.safetensors")
    assert again.steps == 6
    with again.swapped_in():
        torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_killed_run_goes_on_to_the_same_average(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(make_recipe("plain", "pretrain"))
    whole = train(make_recipe("whole", "pretrain", {"ema": 0.8}))
    victim = make_recipe("killed", "pretrain", {"ema": 0.8})
    original = GuardedTrainer.training_step

    def dies(self: GuardedTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 6:
            raise RuntimeError("killed")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(GuardedTrainer, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train(victim)
    again = train(victim)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert figures(again) == figures(whole)
    published, trained = (load_file(made / "model.safetensors") for made in (whole, plain))
    assert any(not torch.equal(published[name], trained[name]) for name in trained), "the average is published"
    losses = [[line["loss"] for line in figures(made) if "loss" in line] for made in (whole, plain)]
    assert losses[0] == losses[1], "training itself is not changed by it"
