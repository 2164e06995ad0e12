"""The losses of gates against loops, and that only the gate learns from them."""

from __future__ import annotations

import math

import pytest
import torch

from agentforge.losses.gates import annealed, shadow_loss, share_floor_loss


def test_it_is_the_binary_entropy_of_agreement() -> None:
    torch.manual_seed(0)
    gate, exit, full = torch.randn(40, requires_grad=True), torch.randn(40, 3), torch.randn(40, 3)
    loss = agreed = right = 0.0
    for score, here, there in zip(gate.tolist(), exit, full, strict=True):
        same = here.tolist().index(here.max()) == there.tolist().index(there.max())
        sure = 1 / (1 + math.exp(-score))
        loss -= math.log(sure if same else 1 - sure)
        agreed += same
        right += (sure > 0.5) == same
    shadow = shadow_loss(gate, exit, full)
    assert shadow.loss.item() == pytest.approx(loss, rel=1e-5)
    assert (shadow.agreed.item(), shadow.right.item()) == (agreed, right)
    assert 0 < agreed < 40 and 0 < right < 40


def test_its_gradient_numerically_and_only_for_the_gate() -> None:
    exit, full = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    gate = torch.randn(9, dtype=torch.float32, requires_grad=True)
    shadow_loss(gate, exit, full).loss.backward()
    agrees = (exit.argmax(-1) == full.argmax(-1)).float()
    torch.testing.assert_close(gate.grad, torch.sigmoid(gate.detach()) - agrees)
    assert exit.grad is None and full.grad is None


def test_a_gate_can_learn_when_an_exit_agrees() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(400, 8)
    full = torch.nn.functional.one_hot((hidden[:, 0] > 0.5).long(), 2).float()
    exit = torch.tensor([[1.0, 0.0]]).expand(400, 2)  # always says 0: right where the first channel is small
    gate = torch.nn.Linear(8, 1)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.1)
    for _ in range(80):
        optimizer.zero_grad()
        shadow = shadow_loss(gate(hidden)[:, 0], exit, full)
        (shadow.loss / 400).backward()
        optimizer.step()
    assert shadow.right / 400 > 0.97 > shadow.agreed / 400


def test_the_floor_is_a_hinge_of_each_row() -> None:
    shares = torch.tensor([[0.05, 0.5], [0.2, 0.0], [0.9, 0.4]])
    tokens = torch.tensor([3, 5, 0])
    expected = 0.0
    for row, count in zip(shares.tolist(), tokens.tolist(), strict=True):
        expected += count * sum(max(0.1 - share, 0.0) for share in row) / len(row)
    assert share_floor_loss(shares, tokens, 0.1).item() == pytest.approx(expected)
    apart = sum(share_floor_loss(shares[row : row + 1], tokens[row : row + 1], 0.1) for row in range(3))
    assert torch.allclose(torch.as_tensor(apart), share_floor_loss(shares, tokens, 0.1))


def test_the_floor_opens_what_is_shut_and_leaves_the_rest_alone() -> None:
    shares = torch.tensor([[0.05, 0.5]], dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([4])
    (gradient,) = torch.autograd.grad(share_floor_loss(shares, tokens, 0.1), shares)
    assert gradient.tolist() == [[-2.0, 0.0]]
    assert torch.autograd.gradcheck(lambda given: share_floor_loss(given, tokens, 0.1), shares)
    # what the hinge is used instead of: an entropy bonus is at its best only where the gate is one half
    assert share_floor_loss(torch.ones(1, 2), tokens, 0.1) == 0


def test_the_weight_is_annealed_to_nothing() -> None:
    assert [annealed(2.0, progress) for progress in (0.0, 0.5, 1.0, 1.5)] == [2.0, 1.0, 0.0, 0.0]
