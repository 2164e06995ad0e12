"""The shadow loss against a loop, and that only the gate learns from it."""

from __future__ import annotations

import math

import pytest
import torch

from agentforge.losses.gates import shadow_loss


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
