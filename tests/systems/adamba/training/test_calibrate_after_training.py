"""What lies beside a trained model: thresholds of its exits, a router; and `generate` takes them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from agentforge.artifacts import read_manifest
from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.trainers.supervised import method as supervised
from agentforge.trainers.train import train
from tests.systems.adamba.training.tiny_adamba import EXITS, NESTED
from tests.trainers.conftest import MakeRecipe

PROMPT = {"input_ids": torch.arange(2, 12)[None], "max_new_tokens": 8, "do_sample": False, "eos_token_id": None}


@pytest.mark.parametrize(("gates", "confidence"), [(True, "gate"), (False, "softmax_gap")])
def test_exits_are_calibrated_when_training_is_over(make_adamba: MakeRecipe, gates: bool, confidence: str) -> None:
    asked = EXITS["exits"] | {"gates": gates, "agreement": 0.1, "layer_dropout": 0.0}
    made = train(make_adamba("calibrated", "sft", {"exits": asked}, max_steps=24))
    entries = json.loads((made / "exits.json").read_text())
    assert {entry["confidence"] for entry in entries.values()} == {confidence}
    assert entries["1"]["threshold"] is not None
    assert read_manifest(made)["metrics"]["exits"] == entries
    model = AdambaForCausalLM.from_pretrained(made).eval()
    output = model.generate(**PROMPT, exit_threshold="calibrated", return_dict_in_generate=True)
    assert set(output.depths) - {4}


def test_without_calibration_a_threshold_is_refused(make_adamba: MakeRecipe) -> None:
    made = train(make_adamba("uncalibrated", "sft", {"exits": EXITS["exits"] | {"agreement": None}}, max_steps=2))
    with pytest.raises(UserError, match="no calibrated exits"):
        AdambaForCausalLM.from_pretrained(made).generate(**PROMPT, exit_threshold="calibrated")


def test_a_router_is_fitted_when_training_is_over(make_adamba: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    load = supervised.load_prepared
    monkeypatch.setattr(
        supervised, "load_prepared", lambda directory: (data := load(directory)) | {"eval": data["train"]}
    )
    made = train(make_adamba("routed", "sft", {"nested": NESTED["nested"] | {"router": 0.05}}, max_steps=8))
    report = json.loads((made / "router.json").read_text())["report"]
    assert read_manifest(made)["metrics"]["router"] == report
    assert set(report["fixed"]) == {"1/4", "1/2", "1"}
    model = AdambaForCausalLM.from_pretrained(made).eval()
    assert model.generate(**PROMPT, width="router").shape == (1, 18)


def test_a_training_without_eval_rows_ends_all_the_same(
    make_adamba: MakeRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = supervised.load_prepared

    def without_eval(directory: Path) -> dict[str, object]:
        data = load(directory)
        return data | {"eval": data["eval"].select([])}

    monkeypatch.setattr(supervised, "load_prepared", without_eval)
    with caplog.at_level(logging.WARNING):
        made = train(make_adamba("uncalibrated", "sft", EXITS, max_steps=2))
    assert "the eval rows are not enough to calibrate exits" in caplog.text
    assert not (made / "exits.json").exists()
