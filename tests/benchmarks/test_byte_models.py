"""The models that AGIFORMER is compared with: each can be trained and scored, and has as many parameters."""

from __future__ import annotations

import pytest
import torch

from benchmarks._byte_models import NAMES, make, parameters
from benchmarks.agiformer_bpc import model_config, rows_of, score

TEXT = b"The same bytes again and again, and a few others. " * 12


@pytest.mark.parametrize("name", NAMES)
def test_every_model_of_the_comparison_learns_and_is_scored(name: str) -> None:
    torch.manual_seed(0)
    model = make(name, model_config()).train()
    assert parameters(model)[0] == pytest.approx(parameters(make("AGIFORMER", model_config()))[0], rel=0.05)
    rows = rows_of(TEXT, 256)
    if hasattr(model, "count"):
        model.count(rows)
    loss = model(input_ids=rows, labels=rows, use_cache=False).loss
    loss.backward()
    assert all(torch.isfinite(weight.grad.to_dense()).all() for weight in model.parameters() if weight.grad is not None)
    bits, low, high = score(model, [TEXT[:300]], 256)
    assert low <= bits <= high and 0 < bits < 10
