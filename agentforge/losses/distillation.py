"""Learning from labels and from another model's distribution at once, without copies of the logits in fp32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows whose fp32 softmaxes are held at a time; their size is this times the vocabulary.
ROWS = 1024


class _Mixed(torch.autograd.Function):
    """The gradient is made in the forward pass, block by block: one tensor like the logits is all that stays."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        teacher_logits: Tensor,
        targets: Tensor,
        hard: float,
        soft: float,
        temperature: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        entropy = logits.new_zeros((), dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
        divergence = torch.zeros_like(entropy)
        for start in range(0, len(logits), ROWS):
            rows = slice(start, start + ROWS)
            scores, wanted = logits[rows].to(entropy.dtype), targets[rows, None]
            teacher = torch.log_softmax(teacher_logits[rows].to(entropy.dtype) / temperature, dim=-1)
            sharp = torch.log_softmax(scores, dim=-1)
            smooth = sharp if temperature == 1 else torch.log_softmax(scores / temperature, dim=-1)
            entropy -= sharp.gather(1, wanted).sum()
            probabilities = teacher.exp()
            divergence += (probabilities * (teacher - smooth)).sum()
            if gradient is not None:
                gradient[rows] = _gradient(sharp, smooth, probabilities, wanted, hard, soft * temperature)
        divergence *= temperature**2
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(entropy, divergence)
        return hard * entropy + soft * divergence, entropy, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * loss.to(gradient.dtype), None, None, None, None, None


def _gradient(sharp: Tensor, smooth: Tensor, teacher: Tensor, wanted: Tensor, hard: float, soft: float) -> Tensor:
    # d CE / d z = softmax(z) - one_hot;  d T^2 KL / d z = T (softmax(z / T) - teacher)
    made = sharp.exp() * (hard + soft) if sharp is smooth else sharp.exp() * hard + smooth.exp() * soft
    made -= soft * teacher
    return made.scatter_add_(1, wanted, torch.full_like(wanted, -hard, dtype=made.dtype))


def mixed_loss(
    logits: Tensor, teacher_logits: Tensor, targets: Tensor, *, hard: float, soft: float, temperature: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``hard * CE + soft * T^2 * KL(teacher || student)``, summed over the tokens.

    Hinton et al. (arXiv 1503.02531), with the factor T^2 that keeps both gradients of one size. The teacher gets no
    gradient.

    Args:
        logits: `(N, V)` of the student.
        teacher_logits: `(N, V)`; they may be of another dtype.
        targets: `(N,)` ids.
        hard: weight of the labels.
        soft: weight of the teacher.
        temperature: T, that both are divided by for the divergence.

    Returns:
        the loss, and without gradient the sums of the cross-entropy and of ``T^2 * KL``.
    """
    result: tuple[Tensor, Tensor, Tensor] = _Mixed.apply(
        logits, teacher_logits.detach(), targets, float(hard), float(soft), float(temperature)
    )
    return result
