"""Branches of a trunk: larger memories compute the same, smaller ones say what they cost, broken ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused, UserError
from agentforge.evaluation.report.page_surgery import surgery_groups
from agentforge.models.history import history
from agentforge.models.locate_model import locate_model
from agentforge.models.surgery import surgery
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.surgery import branch as operation
from agentforge.systems.cognate.surgery.resize import layer_at, with_heads, with_memories, with_more_heads
from agentforge.systems.cognate.surgery.smaller_memory import Trunk
from tests.systems.adamba.checkpoints import llama
from tests.systems.cognate.trunks import recipe_on, trunk
from tests.trainers.tiny import make_rows

IDS = torch.randint(0, 64, (2, 150), generator=torch.Generator().manual_seed(0))
ROWS = [row["input_ids"] for row in make_rows(6, seed=3)]


def said(model: Any, **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.double()(IDS, use_cache=False, **options).logits
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trunk")
    trunk().save_pretrained(directory)
    return directory


def branch_of(tmp_path: Path, base: Path, **chosen: Any) -> Path:
    return surgery(recipe_on(tmp_path, base, surgery={"operation": "branch", "branch": chosen}))


@pytest.mark.parametrize("fields", [{}, {"memory_momentum": True}, {"memory_layers": [1]}, {"halting": "act"}], ids=str)
def test_new_heads_are_silent_and_learn(fields: dict[str, Any]) -> None:
    model = trunk(**fields)
    grown = with_more_heads(model, 4, seed=1)
    assert torch.allclose(said(model, exit_threshold=0.7), said(grown, exit_threshold=0.7), atol=1e-10, rtol=0)
    assert grown.num_parameters() > model.num_parameters()
    # the first step moves what the new heads write, and from then on all of a head learns
    grown.train()(IDS, labels=IDS).loss.backward()
    output = layer_at(grown, 1).memory.o_proj.weight
    assert output.grad[:, 16:].abs().max() > 0 and not output[:, 16:].any()


def test_heads_that_stay_compute_what_they_did() -> None:
    model = trunk(memory_heads=3)
    small = with_heads(model, {0: [0, 2], 1: [1, 2], 2: [0, 1]})
    with torch.no_grad():
        for layer, gone in ((0, 1), (1, 0), (2, 2)):
            layer_at(model, layer).memory.o_proj.weight[:, 8 * gone : 8 * gone + 8] = 0
    assert torch.allclose(said(model), said(small), atol=1e-10, rtol=0)


def test_a_layer_that_loses_its_memory_writes_attention_of_the_fitted_size() -> None:
    model = trunk()
    measured = Trunk(model, ROWS)
    scales = measured.scales
    assert set(scales) == {0, 1, 2} and scales[0].shape == (32,)
    small = with_memories(model, [0, 1], {2: scales[2]})
    assert layer_at(small, 2).memory is None and layer_at(small, 2).gate is None
    expected = layer_at(model, 2).self_attn.o_proj.weight * scales[2][:, None]
    assert torch.equal(layer_at(small, 2).self_attn.o_proj.weight, expected)
    # an untrained model's loss says nothing, but what the layer adds is as close to the trunk's as it can be
    small, unfitted = (with_memories(model, [0, 2], {1: scale}) for scale in (scales[1], torch.ones(32)))
    wanted = what_comes_of(layer_at(model, 1).gate, model)
    near, far = (what_comes_of(layer_at(one, 1).self_attn, one) for one in (small, unfitted))
    assert (near - wanted).square().mean() < (far - wanted).square().mean()


def what_comes_of(module: Any, model: Any) -> Tensor:
    """The output of a module on the rows that are measured; of several the first."""
    found: list[Tensor] = []
    handle = module.register_forward_hook(
        lambda _, given, made: found.append((made[0] if isinstance(made, tuple) else made).flatten(0, 1))
    )
    with torch.no_grad():
        for row in ROWS:
            model(torch.tensor([row]), use_cache=False)
    handle.remove()
    return torch.cat(found)


def test_the_least_squares_factor_is_that_of_a_slow_loop() -> None:
    model = trunk()
    pairs: list[tuple[Tensor, Tensor]] = []
    gate = layer_at(model, 0).gate
    handle = gate.register_forward_hook(lambda _, given, made: pairs.append((given[0], made[0])))
    with torch.no_grad():
        for row in ROWS[:1]:
            model(torch.tensor([row]), use_cache=False)
    handle.remove()
    attended, mixed = (torch.cat([pair[side].flatten(0, 1) for pair in pairs]) for side in (0, 1))
    expected = [torch.linalg.lstsq(attended[:, c : c + 1], mixed[:, c]).solution.item() for c in range(32)]
    one_row = Trunk(model, [ROWS[0], ROWS[0]])  # twice the same: the factor does not change
    assert one_row.scales[0].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("name", "heads", "threshold"), [("reasoning", 2, 0.95), ("memory", 4, 0.9)])
def test_reasoning_and_memory_compute_what_the_trunk_does(
    tmp_path: Path, base: Path, name: str, heads: int, threshold: float
) -> None:
    made = branch_of(tmp_path, base, specialisation=name)
    assert made.name == f"C-v0.1.0-{name}"
    metrics = read_manifest(made)["metrics"]
    assert metrics["operation"] == "branch" and metrics["proof"]["max_logit_difference"] < 1e-9
    assert metrics["proof"]["dtype"] == "float64"
    config = json.loads((made / "config.json").read_text())
    assert (config["exit_threshold"], config["memory_heads"], config["specialisation"]) == (threshold, heads, name)
    model: Any = CognateForCausalLM.from_pretrained(made).eval()
    assert model.dtype == torch.float32 and model.num_parameters() == metrics["branch"]["parameters"]
    assert history(made) == ["branch"]
    recipe = recipe_on(tmp_path, base)
    assert locate_model(recipe.model_copy(update={"surgery": None}), name).path == str(made)


def test_speed_takes_the_half_that_costs_less(tmp_path: Path, base: Path) -> None:
    made = branch_of(tmp_path, base, specialisation="speed")
    metrics = read_manifest(made)["metrics"]
    heads, layers = metrics["costs"]
    assert heads["what"] == "1 of 2 heads" and layers["what"].startswith("memories in layers")
    assert heads["change"]["low"] <= heads["change"]["value"] <= heads["change"]["high"]
    branch = metrics["branch"]
    smaller = branch["memory_heads"] == 1 if heads["loss"] <= layers["loss"] else len(branch["memory_layers"]) == 2
    assert smaller and branch["exit_threshold"] == 0.5
    assert metrics["proof"]["max_logit_difference"] == 0
    assert read_manifest(made)["inputs"]["data"], "it depends on the rows that it was measured on"
    (group,) = surgery_groups([made])
    assert "1 of 2 heads" in str(group["tables"]) and "threshold 0.5" in str(group["tables"])


def test_one_s_own_specialisation(tmp_path: Path, base: Path) -> None:
    made = branch_of(tmp_path, base, name="mine", exit_threshold=0.8, memory_layers=[0], memory_heads=3)
    branch = read_manifest(made)["metrics"]["branch"]
    assert made.name == "C-v0.1.0-branch-mine"
    assert branch | {"parameters": 0} == {
        **{"specialisation": "mine", "exit_threshold": 0.8, "memory_heads": 3, "memory_layers": [0], "parameters": 0},
    }
    quick = branch_of(tmp_path, base, specialisation="reasoning", exit_threshold=0.99)
    assert read_manifest(quick)["metrics"]["branch"]["exit_threshold"] == 0.99


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"specialisation": "speed", "name": "x"}, "has its name already"),
        ({"exit_threshold": 0.3}, "needs surgery.branch.name"),
        ({"specialisation": "speed", "halve_memory": True, "memory_heads": 1}, "chooses heads or layers itself"),
        ({"name": "x", "memory_layers": [0, 7]}, "layer 7 of the trunk has no memory; it has them in 0, 1, 2"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, base: Path, chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        branch_of(tmp_path, base, **chosen)


def test_trunks_that_cannot_be_branched_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a Cognate"):
        branch_of(tmp_path, llama(tmp_path / "llama"), specialisation="memory")
    trunk(halting="none").save_pretrained(tmp_path / "whole")
    with pytest.raises(UserError, match="has no halting head"):
        branch_of(tmp_path, tmp_path / "whole", specialisation="memory")
    trunk(memory_heads=1, memory_layers=[1]).save_pretrained(tmp_path / "least")
    with pytest.raises(UserError, match="there is no half of it"):
        branch_of(tmp_path, tmp_path / "least", specialisation="speed")


def test_a_broken_branch_is_not_published(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New heads that are not silent: the first mistake that one would make."""

    def loud(model: Any, heads: int, seed: int) -> Any:
        grown = with_more_heads(model, heads, seed)
        torch.nn.init.normal_(layer_at(grown, 0).memory.o_proj.weight[:, 16:], std=1e-3)
        return grown

    monkeypatch.setattr(operation, "with_more_heads", loud)
    with pytest.raises(CheckRefused, match="nothing was published"):
        branch_of(tmp_path, base, specialisation="memory")
    assert not list(tmp_path.glob("C-v*-memory"))
