"""Thresholds of a Cognate: higher thinks longer, and what is measured is what each row gives alone."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from agentforge.errors import UserError
from agentforge.evaluation.evaluate import evaluate
from agentforge.evaluation.losses import decoding_speed
from agentforge.evaluation.losses.measure import HeldOut, held_out, measure
from agentforge.systems.cognate.evaluation.readings import CognateReadings
from tests.systems.adamba.checkpoints import llama
from tests.systems.cognate.trunks import recipe_on, trunk
from tests.trainers.tiny import make_rows, tiny_tokenizer

THRESHOLDS = [0.95, 0.8, 0.6, 0.3]


@pytest.fixture(scope="module")
def rows() -> HeldOut:
    return held_out(Dataset.from_list(make_rows(6, seed=3)), None, tiny_tokenizer())


def test_a_higher_threshold_thinks_longer_and_costs_more(rows: HeldOut) -> None:
    found = measure(CognateReadings(trunk(), THRESHOLDS), rows, batch_size=3).thresholds
    assert list(found) == ["never", "0.95", "0.8", "0.6", "0.3"]
    per_row = [read.steps for read in found.values()]
    assert all((more >= less).all() for more, less in pairwise(per_row))
    steps = [read.steps.sum() / rows.tokens.sum() for read in found.values()]
    assert steps[0] == 3 and 1 <= steps[-1] < steps[0]
    flops = [read.flops for read in found.values()]
    assert flops == sorted(flops, reverse=True) and flops[-1] < flops[0]
    assert all(read.seconds > 0 for read in found.values())


def test_what_is_measured_is_what_each_row_gives_alone(rows: HeldOut) -> None:
    model = trunk(exit_threshold=0.6)
    found = measure(CognateReadings(model, [0.6]), rows, batch_size=4)
    for number, (ids, counted) in enumerate(zip(rows.ids, rows.counted, strict=True)):
        for name, threshold in (("never", None), ("0.6", 0.6)):
            with torch.no_grad():
                out = model(torch.tensor([ids]), use_cache=False, exit_threshold=threshold)
            losses = torch.nn.functional.cross_entropy(out.logits[0, :-1], torch.tensor(ids[1:]), reduction="none")
            assert found.thresholds[name].loss[number] == pytest.approx(float(losses[counted].sum()), rel=1e-4)
            assert found.thresholds[name].steps[number] == int(out.halting_steps[0, :-1][counted].sum())
    # as it is configured, the model stops at 0.6
    assert found.widths["1"].loss == pytest.approx(found.thresholds["0.6"].loss)


def test_the_model_as_it_is_configured_is_read_with_or_without_thresholds(rows: HeldOut) -> None:
    model = trunk(exit_threshold=0.7)
    alone = measure(CognateReadings(model), rows)
    beside = measure(CognateReadings(model, [0.3]), rows)
    assert alone.thresholds == {}
    assert alone.widths["1"].loss == pytest.approx(beside.widths["1"].loss)
    assert np.abs(alone.widths["1"].loss - beside.thresholds["never"].loss).max() > 1e-3


def test_the_stage_writes_thresholds_speeds_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_speed, "TOKENS", 2)
    monkeypatch.setattr(decoding_speed, "TURNS", 1)
    trunk(exit_threshold=0.6).save_pretrained(tmp_path / "trunk")
    asked: dict[str, Any] = {"loss": {"exit_thresholds": [0.6, 0.9], "speed": True, "rows": 4}}
    made = evaluate(recipe_on(tmp_path, tmp_path / "trunk", evaluate=asked), "base")
    report = json.loads((made / "scores.json").read_text())["losses"]
    assert list(report["thresholds"]) == ["never", "0.9", "0.6"]
    for entry in report["thresholds"].values():
        assert entry["speed"]["wall"] > 0 and entry["milliseconds"] > 0 and entry["flops"] > 0
    picture = report["picture"]
    assert len(picture["tokens"]) == len(picture["steps"]) and picture["most"] == 3
    assert set(picture["steps"]) <= {1, 2, 3}


def test_models_that_do_not_decide_have_no_thresholds(tmp_path: Path) -> None:
    trunk(halting="none").save_pretrained(tmp_path / "whole")
    for base in (tmp_path / "whole", llama(tmp_path / "llama", vocab_size=64)):
        recipe = recipe_on(tmp_path, base, evaluate={"loss": {"exit_thresholds": [0.5]}})
        with pytest.raises(UserError, match="does not decide how long it thinks"):
            evaluate(recipe, "base")
    made = evaluate(recipe_on(tmp_path, tmp_path / "whole", evaluate={"loss": {}}), "base")
    report = json.loads((made / "scores.json").read_text())["losses"]
    assert report["thresholds"] == {} and report["picture"] is None
