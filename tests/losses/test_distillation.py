"""The mixed loss against PyTorch's own functions, its gradient numerically, and what memory it takes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from agentforge.losses import distillation
from agentforge.losses.distillation import mixed_loss


def slow(logits: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, temperature: float) -> tuple[float, float]:
    """Cross-entropy and T^2 KL, token by token and word by word."""
    entropy = divergence = 0.0
    for row, other, target in zip(logits, teacher, targets.tolist(), strict=True):
        entropy -= torch.log_softmax(row, 0)[target].item()
        p, q = torch.softmax(other / temperature, 0), torch.softmax(row / temperature, 0)
        divergence += temperature**2 * sum((a * (a / b).log()).item() for a, b in zip(p, q, strict=True))
    return entropy, divergence


@pytest.fixture
def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(7, 11, generator=g, dtype=torch.float64) * 3 for _ in range(2))
    return student.requires_grad_(), teacher, torch.randint(11, (7,), generator=g)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_it_is_the_weighted_sum_whatever_the_blocks(
    tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher, targets = tokens
    entropy, divergence = slow(student, teacher, targets, temperature)
    gradients = []
    for rows in (3, 1024):
        monkeypatch.setattr(distillation, "ROWS", rows)
        loss, hard, soft = mixed_loss(student, teacher, targets, hard=0.3, soft=0.7, temperature=temperature)
        assert loss.item() == pytest.approx(0.3 * entropy + 0.7 * divergence, rel=1e-12)
        assert (hard.item(), soft.item()) == pytest.approx((entropy, divergence), rel=1e-12)
        assert not hard.requires_grad and not soft.requires_grad
        gradients += torch.autograd.grad(loss, student)
    plain = 0.3 * functional.cross_entropy(
        student, targets, reduction="sum"
    ) + 0.7 * temperature**2 * functional.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="sum"
    )
    (expected,) = torch.autograd.grad(plain, student)
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_its_gradient_numerically(tokens: tuple[torch.Tensor, torch.Tensor, torch.Tensor], temperature: float) -> None:
    student, teacher, targets = tokens

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return 2 * mixed_loss(logits, teacher, targets, hard=1.0, soft=0.5, temperature=temperature)[0]

    assert torch.autograd.gradcheck(loss, (student,))


def test_a_teacher_of_the_same_mind_gives_no_gradient_and_none_comes_to_it() -> None:
    student = torch.randn(5, 9, requires_grad=True)
    teacher = student.detach().clone().requires_grad_()
    loss, _, divergence = mixed_loss(student, teacher, torch.zeros(5, dtype=torch.long), hard=0.0, soft=1.0)
    loss.backward()
    assert divergence.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None and student.grad.abs().max() < 1e-6
    assert teacher.grad is None


def test_only_one_tensor_of_the_logits_size_is_kept() -> None:
    kept: list[torch.Tensor] = []
    logits = torch.randn(64, 50, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        mixed_loss(logits, torch.randn(64, 50), torch.zeros(64, dtype=torch.long), hard=0.5, soft=0.5, temperature=2.0)
    large = [tensor for tensor in kept if tensor.numel() >= logits.numel()]
    assert len(large) == 1 and large[0].dtype == torch.bfloat16
