"""Nested training as a stage: the loss is what it says, and what comes out is a plain checkpoint."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, FalconH1ForCausalLM

from agentforge.artifacts import read_manifest
from agentforge.data.prepare import load_prepared
from agentforge.losses.early_exit import exit_weights
from agentforge.losses.matryoshka import mix, sandwich
from agentforge.recipe.schema import Recipe, Train
from agentforge.systems.adamba.exits.exits import load_gates
from agentforge.systems.adamba.training import objective as nested_objective
from agentforge.systems.adamba.training.objective import GATES, Moment, NestedObjective
from agentforge.systems.adamba.widths.elastic import ElasticModel
from agentforge.trainers.supervised.objective_trainer import ObjectiveTrainer
from agentforge.trainers.train import train
from tests.systems.adamba.checkpoints import some_gate
from tests.systems.adamba.training.tiny_adamba import EXITS, NESTED, logged
from tests.trainers.conftest import MakeRecipe
from tests.trainers.tiny import figures


@pytest.mark.parametrize("method", ["pretrain", "sft"])
def test_widths_exits_and_gates_are_trained_and_the_result_is_a_plain_checkpoint(
    make_adamba: MakeRecipe, method: str
) -> None:
    recipe = make_adamba("nested", method, NESTED | EXITS, max_steps=24, logging_steps=6)
    made = train(recipe)
    first, last = logged(made)[0], logged(made)[-1]
    for part in ("loss/width/1", "loss/width/1_4", "loss/exit/1", "loss/exit/2"):
        assert 0 < last[part] < first[part], part
    assert set(last) >= {"loss/width/1_2", "loss/width/mixed", "divergence/width/1_4", "agreement/exit/2"}
    assert 0 <= last["accuracy/gate/1"] <= 1
    metrics = read_manifest(made)["metrics"]
    assert metrics["parts"]["loss/width/1_4"] == last["loss/width/1_4"]
    model, loading = AutoModelForCausalLM.from_pretrained(made, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert json.loads((made / "config.json").read_text())["exit_layers"] == [1, 2]
    gates = load_gates(made)
    assert {layer: gate.width for layer, gate in gates.items()} == {1: 32, 2: 32}
    assert all(gate.hidden.weight.any() for gate in gates.values())
    assert metrics["eval_loss"] == pytest.approx(full_width_loss(model, recipe, masked=method == "sft"), rel=1e-3)


def full_width_loss(model: Any, recipe: Recipe, masked: bool) -> float:
    """Return the mean loss of the eval rows' trained tokens."""
    sums = []
    for row in load_prepared(recipe.artifact("data"))["eval"]:
        ids, mask = torch.tensor(row["input_ids"]), torch.tensor(row["assistant_masks"])
        with torch.no_grad():
            entropy = functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
        trained = (mask if masked else torch.ones_like(mask))[1:]
        sums.append((float((entropy * trained).sum()), int(trained.sum())))
    return sum(loss for loss, _ in sums) / sum(count for _, count in sums)


def with_gates(base: Path) -> Any:
    model = FalconH1ForCausalLM.from_pretrained(base).train()
    torch.manual_seed(0)  # of the layers that are left out
    model.add_module(GATES, torch.nn.ModuleDict({str(layer): some_gate(32, seed=layer) for layer in (1, 2)}))
    return model


def test_the_loss_is_that_of_separate_models(adamba_base: Path) -> None:
    """Each step's objective against losses of models that are run apart, with PyTorch's own functions."""
    model = with_gates(adamba_base)
    sections = Train.model_validate(NESTED | {"exits": EXITS["exits"] | {"layer_dropout": 0.0}})
    objective = NestedObjective(model, sections, seed=3)
    ids = torch.randint(2, 64, (3, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.masked_fill(torch.rand(3, 12, generator=torch.Generator().manual_seed(1)) < 0.4, -100)
    names = set()
    for step in range(6):
        loss, parts = objective(Moment(step), ids, labels)
        assert loss.item() == pytest.approx(separate_loss(model, sections, step, ids, labels), rel=1e-4)
        assert parts["tokens"] == (labels[:, 1:] != -100).sum()
        names |= {name for name in parts if name.startswith("loss/width")}
    assert names == {f"loss/width/{width}" for width in ("1", "1_2", "1_4", "mixed")}


def separate_loss(model: Any, sections: Train, step: int, ids: torch.Tensor, labels: torch.Tensor) -> float:
    nested, exits = sections.nested, sections.exits
    assert nested is not None and exits is not None
    widths, trained = [Fraction(width) for width in nested.widths], labels[:, 1:] != -100
    targets = labels[:, 1:][trained]
    with torch.no_grad():
        hidden = model.model(input_ids=ids, output_hidden_states=True).hidden_states
        full = model(ids).logits[:, :-1][trained]
        drawn = sandwich(widths, count=1, mixed=True, seed=3, step=step)
        total = gates = 0.0
        for width in drawn:
            at = mix(widths, 4, seed=3, step=step) if width == "mixed" else width
            narrow = ElasticModel(model)(ids, widths=[at])[0][:, :-1][trained]
            apart = functional.kl_div(narrow.log_softmax(-1), full.softmax(-1), reduction="sum")
            labelled = functional.cross_entropy(narrow, targets, reduction="sum")
            total += float(nested.alpha * apart + (1 - nested.alpha) * labelled)
        weights = exit_weights(exits.layers, 4, exits.scale)
        total += weights[4] * float(functional.cross_entropy(full, targets, reduction="sum"))
        for layer in exits.layers:
            normed = model.model.final_layernorm(hidden[layer])[:, :-1][trained]
            logits = model.lm_head(normed)
            total += weights[layer] * float(functional.cross_entropy(logits, targets, reduction="sum"))
            sure = torch.sigmoid(getattr(model, GATES)[str(layer)](normed, logits))
            agrees = (logits.argmax(-1) == full.argmax(-1)).float()
            gates += float(functional.binary_cross_entropy(sure, agrees, reduction="sum"))
    return total / (1 + len(drawn)) + gates


def test_gates_teach_the_model_nothing(adamba_base: Path) -> None:
    model = with_gates(adamba_base)
    sections = Train.model_validate({"exits": {"layers": [1, 2], "scale": 0.0}})
    ids = torch.randint(2, 64, (2, 9))
    gradients = []
    for gated in (True, False):
        if not gated:
            del model.exit_gates
        model.zero_grad()
        NestedObjective(model, sections, seed=0)(Moment(0), ids, ids)[0].backward()
        gradients.append([parameter.grad for name, parameter in model.named_parameters() if GATES not in name])
    assert all(torch.equal(with_, without) for with_, without in zip(*gradients, strict=True))


def test_blocks_of_logits_change_neither_loss_nor_gradient(adamba_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = Train.model_validate(NESTED | EXITS)
    ids = torch.randint(2, 64, (3, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for limit in (2**30, 4 * 64 * 5 * 7):  # seven rows a block
        monkeypatch.setattr(nested_objective, "MAX_LOGITS_BYTES", limit)
        model = with_gates(adamba_base)
        loss, parts = NestedObjective(model, sections, seed=3)(Moment(1), ids, ids)
        loss.backward()
        found.append((loss, parts, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_killed_and_resumed_weights_gates_and_figures_are_those_of_an_unbroken_run(
    make_adamba: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two logged lines, with random widths, layer dropout and accumulated micro-batches."""
    options = {"max_steps": 8, "save_steps": 5, "logging_steps": 4, "gradient_accumulation_steps": 2}
    whole = train(make_adamba("unbroken", "pretrain", NESTED | EXITS, **options))
    victim = make_adamba("killed", "pretrain", NESTED | EXITS, **options)
    original = ObjectiveTrainer.training_step

    def dies(self: ObjectiveTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 6:
            raise RuntimeError("killed")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(ObjectiveTrainer, "training_step", dies)
        with pytest.raises(RuntimeError, match="killed"):
            train(victim)
    made = train(victim)
    for name in ("model.safetensors", "exit_gates.safetensors"):
        assert (made / name).read_bytes() == (whole / name).read_bytes()
    assert figures(made) == figures(whole)


def test_the_next_phase_goes_on_with_the_gates_it_finds(
    make_adamba: MakeRecipe, caplog: pytest.LogCaptureFixture
) -> None:
    first = train(make_adamba("first", "pretrain", EXITS, max_steps=2))
    second = train(make_adamba("second", "sft", EXITS, path=first, max_steps=1, learning_rate=0.0))
    assert (second / "exit_gates.safetensors").read_bytes() == (first / "exit_gates.safetensors").read_bytes()
    assert "without train.exits" not in caplog.text
    third = train(make_adamba("third", "sft", {}, path=first, max_steps=1))
    assert not (third / "exit_gates.safetensors").exists() and "without train.exits" in caplog.text


def test_exits_that_take_turns_leave_no_gate_without_a_gradient(adamba_base: Path) -> None:
    model = with_gates(adamba_base)
    objective = NestedObjective(model, Train.model_validate({"exits": {"layers": [1, 2], "rotate": True}}), seed=0)
    ids = torch.randint(2, 64, (2, 9))
    for step, exit in ((0, 1), (1, 2), (2, 1)):
        model.zero_grad()
        loss, parts = objective(Moment(step), ids, ids)
        assert [name for name in parts if name.startswith("loss/exit")] == [f"loss/exit/{exit}"]
        loss.backward()
        gates = getattr(model, GATES)
        assert all(part.grad is not None for part in gates.parameters()), "DDP waits for every parameter"
        assert {name: gate.hidden.weight.grad.any().item() for name, gate in gates.items()} == {
            "1": exit == 1,
            "2": exit == 2,
        }
