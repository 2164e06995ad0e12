"""The halting losses against slow references: a loop over tokens and steps that does what the papers say."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from agentforge.losses.halting import (
    adaptive_computation_time,
    correctness_loss,
    divergence_from_prior,
    entropy,
    entropy_regularised_loss,
    exit_steps,
    expected_loss,
    geometric_log_prior,
    pondernet_loss,
    stop_log_probabilities,
)

TOKENS = 7


def logits_of(steps: int, seed: int = 0) -> Tensor:
    return torch.randn(TOKENS, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2


def losses_of(steps: int) -> Tensor:
    return torch.rand(TOKENS, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) * 3


def broken_sticks(logits: Tensor) -> list[list[float]]:
    found = []
    for row in logits.tolist():
        left, shares = 1.0, []
        for logit in row[:-1]:
            halting = 1 / (1 + math.exp(-logit))
            shares.append(left * halting)
            left *= 1 - halting
        found.append([*shares, left])
    return found


def prior(steps: int, rate: float) -> list[float]:
    raw = [rate * (1 - rate) ** k for k in range(steps)]
    return [value / sum(raw) for value in raw]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_sticks_are_broken_one_after_the_other(steps: int) -> None:
    logits = logits_of(steps)
    stops = stop_log_probabilities(logits)
    assert torch.allclose(stops.exp(), torch.tensor(broken_sticks(logits), dtype=torch.float64), atol=1e-14)
    assert torch.allclose(stops.exp().sum(-1), torch.ones(TOKENS, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 3])
def test_expected_loss_entropy_and_divergence_are_the_loops(steps: int) -> None:
    logits, losses = logits_of(steps), losses_of(steps)
    expected = divergence = bits = 0.0
    for row, costs in zip(broken_sticks(logits), losses.tolist(), strict=True):
        for p, cost, q in zip(row, costs, prior(steps, 0.4), strict=True):
            expected += p * cost
            divergence += p * (math.log(p) - math.log(q))
            bits -= p * math.log(p)
    stops = stop_log_probabilities(logits)
    assert expected_loss(losses, stops).item() == pytest.approx(expected)
    assert divergence_from_prior(stops, 0.4).item() == pytest.approx(divergence, abs=1e-12)
    assert entropy(stops).sum().item() == pytest.approx(bits, abs=1e-12)
    assert pondernet_loss(losses, logits, rate=0.4, beta=0.3).item() == pytest.approx(expected + 0.3 * divergence)
    assert entropy_regularised_loss(losses, logits, beta=0.3).item() == pytest.approx(expected - 0.3 * bits)


def test_the_entropy_bonus_is_pondernet_with_a_uniform_prior() -> None:
    logits, losses = logits_of(4), losses_of(4)
    constant = 0.3 * TOKENS * math.log(4)
    uniform = pondernet_loss(losses, logits, rate=0.0, beta=0.3)
    assert uniform.item() == pytest.approx(entropy_regularised_loss(losses, logits, beta=0.3).item() + constant)


def graves(row: list[float], epsilon: float) -> tuple[list[float], int, float]:
    """Section 2.1 of the paper: run until the units have added up, give what is left to the last step."""
    total, shares = 0.0, [0.0] * len(row)
    for step, logit in enumerate(row):
        unit = 1 / (1 + math.exp(-logit))
        if total + unit >= 1 - epsilon or step == len(row) - 1:
            shares[step] = 1 - total
            return shares, step + 1, 1 - total
        shares[step] = unit
        total += unit
    raise AssertionError("there is always a last step")


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_adaptive_computation_time_is_graves(steps: int) -> None:
    logits, states = logits_of(steps), torch.randn(TOKENS, steps, 3, dtype=torch.float64)
    act = adaptive_computation_time(logits, 0.01)
    for token, row in enumerate(logits.tolist()):
        shares, taken, remainder = graves(row, 0.01)
        assert act.probabilities[token].tolist() == pytest.approx(shares)
        assert act.steps[token] == taken
        assert act.remainder[token].item() == pytest.approx(remainder)
        mixed = sum((share * states[token, step] for step, share in enumerate(shares)), torch.zeros(3))
        assert torch.allclose(act.mean_field(states)[token], mixed)
    assert act.ponder_cost.item() == pytest.approx(float(act.steps.sum() + act.remainder.sum()))
    assert set(range(1, steps + 1)) >= set(act.steps.tolist())


def test_pondering_costs_less_when_the_first_units_grow() -> None:
    logits = torch.full((1, 4), -2.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(adaptive_computation_time(logits).ponder_cost, logits)
    assert (gradient[0, :3] < 0).all() and gradient[0, 3] == 0


@pytest.mark.parametrize("steps", [1, 3])
def test_correctness_is_a_binary_cross_entropy_of_every_step(steps: int) -> None:
    logits, right = logits_of(steps), torch.rand(TOKENS, steps) < 0.5
    expected = 0.0
    for row, truths in zip(logits.tolist(), right.tolist(), strict=True):
        for logit, truth in zip(row, truths, strict=True):
            halting = 1 / (1 + math.exp(-logit))
            expected -= math.log(halting if truth else 1 - halting)
    assert correctness_loss(logits, right).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "loss",
    [
        lambda logits, losses: pondernet_loss(losses, logits, rate=0.3, beta=0.5),
        lambda logits, losses: entropy_regularised_loss(losses, logits, beta=0.5),
        lambda logits, losses: correctness_loss(logits, losses.detach() > 1.5),
        lambda logits, losses: expected_loss(losses, adaptive_computation_time(logits).probabilities.log1p()),
        lambda logits, losses: adaptive_computation_time(logits).ponder_cost,
    ],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_the_gradients_are_those_of_finite_differences(loss: Callable[[Tensor, Tensor], Tensor], steps: int) -> None:
    inputs = (logits_of(steps, seed=3).requires_grad_(), losses_of(steps).requires_grad_())
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("size", [50.0, 1e3, 1e6, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certain_logits_give_finite_losses_and_gradients(size: float, dtype: torch.dtype) -> None:
    signs = torch.tensor([[1.0, 1, 1], [-1, -1, -1], [-1, 1, -1], [1, -1, 1]])
    logits = (signs * size).to(dtype).requires_grad_()
    losses = torch.ones(4, 3)
    act = adaptive_computation_time(logits)
    total = (
        pondernet_loss(losses, logits, rate=0.5, beta=1.0)
        + entropy_regularised_loss(losses, logits, beta=1.0)
        + act.ponder_cost
    )
    total.backward()
    assert torch.isfinite(total) and logits.grad is not None and torch.isfinite(logits.grad).all()
    stops = stop_log_probabilities(logits).exp()
    assert torch.allclose(stops, torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]), atol=1e-6)
    assert act.steps.tolist() == [1, 3, 2, 1]


def test_a_hopeless_step_still_has_a_gradient_in_log_space() -> None:
    # p(stop at the last step) is below the smallest float, but the divergence must still pull it up
    logits = torch.full((1, 3), 80.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(-stop_log_probabilities(logits)[0, -1], logits)
    assert torch.allclose(gradient, torch.tensor([[1.0, 1.0, 0.0]]))


def test_the_prior_is_cut_off_and_normalised() -> None:
    assert geometric_log_prior(4, 0.3).exp().tolist() == pytest.approx(prior(4, 0.3))
    assert geometric_log_prior(4, 0.0).exp().tolist() == pytest.approx([0.25] * 4)
    assert geometric_log_prior(1, 0.7).tolist() == [0.0]
    for rate in (1.0, -0.1):
        with pytest.raises(ValueError, match="at least 0 and less than 1"):
            geometric_log_prior(3, rate)


def test_a_higher_threshold_thinks_longer() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.96, 0.03, 0.01], [0.1, 0.1, 0.8]])
    assert exit_steps(probabilities, 0.0).tolist() == [1, 1, 1]
    assert exit_steps(probabilities, 0.5).tolist() == [1, 1, 3]
    assert exit_steps(probabilities, 0.75).tolist() == [2, 1, 3]
    assert exit_steps(probabilities, 0.95).tolist() == [3, 1, 3]
    # rounding must not keep anybody from stopping at the last step
    assert exit_steps(probabilities * 0.999, 1.0).tolist() == [3, 3, 3]
    assert exit_steps(torch.ones(2, 1), 0.9).tolist() == [1, 1]
