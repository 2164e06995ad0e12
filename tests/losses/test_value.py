"""The critic's loss against a loop, and what its clipping does to the gradient."""

from __future__ import annotations

import pytest
import torch

from agentforge.losses.value import explained_variance, value_loss


@pytest.mark.parametrize("clip", [None, 0.1, 0.5])
def test_the_loss_is_the_worse_of_both_errors_averaged_over_the_models_tokens(clip: float | None) -> None:
    g = torch.Generator().manual_seed(0)
    values, old, returns = (torch.randn(3, 5, generator=g) for _ in range(3))
    mask = (torch.rand(3, 5, generator=g) > 0.3).float()
    errors = []
    for v, o, r, m in zip(*(x.flatten().tolist() for x in (values, old, returns, mask)), strict=True):
        if m:
            near = v if clip is None else min(max(v, o - clip), o + clip)
            errors.append(max((v - r) ** 2, (near - r) ** 2))
    assert value_loss(values, old, returns, mask, clip).item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_a_value_that_has_moved_far_enough_gets_no_gradient() -> None:
    values = torch.tensor([[0.5, 0.05]], requires_grad=True)
    value_loss(values, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2), 0.1).backward()
    assert values.grad is not None
    assert values.grad[0, 0] == 0 and values.grad[0, 1] < 0


def test_explained_variance() -> None:
    returns, mask = torch.tensor([[1.0, 2, 3, 9]]), torch.tensor([[1.0, 1, 1, 0]])
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.full((1, 4), 2.0), returns, mask) == 0
    assert explained_variance(returns, torch.ones(1, 4), mask) == 0
