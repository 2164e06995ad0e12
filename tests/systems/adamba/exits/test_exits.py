"""Exits beside a checkpoint: what is calibrated, what is written, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import FalconH1ForCausalLM

from agentforge.errors import UserError
from agentforge.evaluation.statistics.intervals import beta_jeffreys
from agentforge.systems.adamba.exits.calibration import _smallest, calibrate_exits, counted_tokens, interval
from agentforge.systems.adamba.exits.exits import (
    GAIN,
    GATES,
    Exit,
    ExitGate,
    confidence_of,
    load_exits,
    load_gates,
    save_exits,
    save_gates,
)
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from tests.systems.adamba.checkpoints import some_gate
from tests.systems.adamba.decoding import heads_of_layers, prompts, random_model

WANTED = 0.6


@pytest.fixture(scope="module")
def model() -> AdambaForCausalLM:
    """Its last layers change little, so that its exits are often right and often wrong."""
    model = random_model()
    with torch.no_grad():
        for layer in model.model.layers[2:]:
            for name, parameter in layer.named_parameters():
                if parameter.ndim == 2 and name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight")):
                    parameter *= 0.4
    return model


@pytest.fixture(scope="module")
def batches() -> list[dict[str, torch.Tensor]]:
    return [prompts(8, 40, seed=seed) for seed in range(8)]


@pytest.fixture(scope="module")
def gates() -> dict[int, ExitGate]:
    return {layer: some_gate(64, seed=layer) for layer in (2, 3)}


def test_the_thresholds_are_the_smallest_that_hold(model: AdambaForCausalLM, batches: Any) -> None:
    exits = calibrate_exits(model, batches, WANTED, layers=[2, 3], confidence="max_probability")
    rows = torch.cat([batch["input_ids"] for batch in batches])
    heads = [head[:, :-1] for head in heads_of_layers(model, rows, torch.ones_like(rows))]
    left = torch.zeros(heads[0].shape[:2], dtype=torch.bool)
    for layer in (2, 3):
        exit = exits[layer]
        assert exit.threshold is not None
        sure, agrees = heads[layer - 1].softmax(-1).amax(-1), heads[layer - 1].argmax(-1) == heads[-1].argmax(-1)
        leaves = (sure >= exit.threshold) & ~left
        assert exit.tokens == int(leaves[1::2].sum()) > 20
        assert exit.agreement == pytest.approx(agrees[1::2][leaves[1::2]].float().mean().item())
        assert exit.low < exit.agreement < exit.high
        # on the rows that chose it: more than enough agree among those that leave, and with more of them it would fail
        assert agrees[::2][leaves[::2]].float().mean() > WANTED
        assert agrees[::2][~left[::2]].float().mean() < agrees[::2][leaves[::2]].float().mean()
        left |= leaves


def test_the_smallest_threshold_against_a_slow_search() -> None:
    random = np.random.default_rng(0)
    sure = np.sort(random.random(150))
    agrees = random.random(150) < sure
    rows = np.arange(150)
    held = [t for t in sure if interval(rows[sure >= t], agrees[sure >= t])[0] >= 0.8]
    assert _smallest(rows, sure, agrees, 0.8) == min(held)
    assert _smallest(rows, sure, agrees, 0.9999) is None


def test_independent_tokens_have_the_interval_of_the_evaluation() -> None:
    random = np.random.default_rng(1)
    agrees = random.random(2000) < 0.9
    alone = interval(np.arange(2000), agrees)
    assert alone == pytest.approx(beta_jeffreys(float(agrees.sum()), 2000, 0.95), abs=1e-4)


def test_tokens_that_agree_by_rows_count_for_as_many_as_there_are_rows() -> None:
    agrees = np.repeat(np.arange(40) % 8 != 0, 50)
    low, high = interval(np.repeat(np.arange(40), 50), agrees)
    assert (low, high) == pytest.approx(beta_jeffreys(35, 40, 0.95), abs=2e-3)


def test_an_exit_that_no_threshold_makes_good_enough_is_not_used(model: AdambaForCausalLM, batches: Any) -> None:
    exits = calibrate_exits(model, batches[:1], 0.999, layers=[1, 3])
    assert exits[1].threshold is None
    model.exits = load_and_save(exits)
    output = model.generate(
        **prompts(1), max_new_tokens=8, do_sample=False, exit_threshold="calibrated", return_dict_in_generate=True
    )
    assert 1 not in output.depths
    del model.exits


def load_and_save(exits: dict[int, Exit]) -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        save_exits(Path(directory), exits)
        return load_exits(Path(directory))


def test_only_tokens_that_predict_a_label_count() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    assert counted_tokens({"input_ids": ids}).tolist() == [[True, True, True]]
    assert counted_tokens({"input_ids": ids, "labels": torch.tensor([[-100, -100, 7, 8]])}).tolist() == [
        [False, True, True]
    ]
    assert counted_tokens({"input_ids": ids, "attention_mask": torch.tensor([[0, 1, 1, 1]])}).tolist() == [
        [False, True, True]
    ]


def test_confidences() -> None:
    logits = torch.tensor([[2.0, 1.0, -3.0]])
    best = logits.softmax(-1)[0]
    assert confidence_of("max_probability", logits, logits, None).item() == pytest.approx(best[0].item())
    assert confidence_of("softmax_gap", logits, logits, None).item() == pytest.approx((best[0] - best[1]).item())
    normed = torch.tensor([[0.3, -0.1, 0.2]])
    gate = some_gate(3)
    gap = best[0] - best[1]
    sure = torch.stack([best[0] / (1 - best[0]), gap / (1 - gap)]).log()
    said = normed[0] @ gate.hidden.weight[0] + gate.hidden.bias[0] + sure @ gate.distribution.weight[0]
    assert confidence_of("gate", normed, logits, gate).item() == pytest.approx(torch.sigmoid(GAIN * said).item())


def test_a_new_gate_says_the_softmax_gap() -> None:
    logits = 5 * torch.randn(4, 7, 9)
    normed = torch.randn(4, 7, 6)
    said = confidence_of("gate", normed, logits, ExitGate(6))
    torch.testing.assert_close(said, confidence_of("softmax_gap", normed, logits, None), rtol=0, atol=1.1e-4)
    certain = torch.tensor([[400.0, 0.0, 0.0]])
    assert torch.isfinite(ExitGate(3)(torch.zeros(1, 3), certain)).all()


def test_calibrated_gates_lie_beside_a_checkpoint_that_stays_plain(
    model: AdambaForCausalLM, batches: Any, gates: Any, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    save_gates(tmp_path, gates)
    exits = calibrate_exits(model, batches[:2], 0.05, gates=load_gates(tmp_path))
    save_exits(tmp_path, exits)
    entries = json.loads((tmp_path / "exits.json").read_text())
    assert set(entries) == {"2", "3"}
    assert {"threshold", "agreement", "wanted", "tokens"} <= set(entries["2"])
    assert exits[2].confidence == "gate"
    for layer, gate in load_gates(tmp_path).items():
        for one, other in zip(gate.parameters(), gates[layer].parameters(), strict=True):
            assert torch.equal(one, other)

    plain, info = FalconH1ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    loaded = AdambaForCausalLM.from_pretrained(tmp_path).eval()
    inputs = prompts(1) | {"max_new_tokens": 12, "do_sample": False}
    output = loaded.generate(**inputs, exit_threshold="calibrated", return_dict_in_generate=True)
    assert set(output.depths) == {2, 4}, "the first exit lets all through at an agreement of 5%"
    assert set(loaded.state_dict()) == set(plain.state_dict())


def test_a_threshold_without_calibrated_gates_is_refused(tmp_path: Path, gates: Any) -> None:
    model = random_model()
    save_gates(tmp_path, gates)
    model.save_pretrained(tmp_path)
    for refused in (model, AdambaForCausalLM.from_pretrained(tmp_path)):
        for threshold in (0.9, "calibrated"):
            with pytest.raises(UserError, match="no calibrated exits"):
                refused.generate(**prompts(1), max_new_tokens=2, exit_threshold=threshold)
    save_exits(tmp_path, {2: Exit(0.5, 1.0, 0.9, 10)})
    (tmp_path / GATES).unlink()
    with pytest.raises(UserError, match=r"the exit after layer 2 has no gate in exit_gates.safetensors"):
        AdambaForCausalLM.from_pretrained(tmp_path).generate(**prompts(1), max_new_tokens=2, exit_threshold=0.5)


def test_gates_of_another_width_are_refused(model: AdambaForCausalLM, batches: Any) -> None:
    with pytest.raises(UserError, match="reads 32 channels, but this model has 64"):
        calibrate_exits(model, batches, 0.9, gates={2: ExitGate(32)})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": [4]}, "no exit after layer 4: this model has 4 layers, so exits are 1 to 3"),
        ({"layers": [2], "confidence": "gate"}, "has no gate"),
        ({}, "no exits to calibrate"),
        ({"layers": [2], "wanted": 1.0}, "must be between 0 and 1"),
        ({"layers": [2], "batches": []}, "at least two held-out rows"),
    ],
)
def test_what_cannot_be_calibrated_is_said(
    model: AdambaForCausalLM, batches: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        calibrate_exits(model, **({"batches": batches[:1], "wanted": 0.9} | options))
