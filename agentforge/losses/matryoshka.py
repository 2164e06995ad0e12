"""Nested widths: which are trained in a step, and what the narrow ones learn from the widest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor

from agentforge.losses.distillation import mixed_loss

MIXED = "mixed"
"""In place of a width: each layer's MLP and mixers have widths of their own."""


def sandwich(widths: Sequence[Fraction], *, count: int, mixed: bool, seed: int, step: int) -> list[Fraction | str]:
    """Return what is trained beside the full width in one step: the narrowest, and ``count`` drawn from between.

    The sandwich rule of Yu and Huang (US-Nets, arXiv 1903.05134, section 3.2): the widest and the narrowest bound what
    lies between, and are trained in each step.

    Args:
        widths: narrower than full, in any order.
        count: how many between are drawn, without repetition; fewer if there are not as many.
        mixed: per-layer mixes (Devvrit et al., MatFormer, arXiv 2310.07707, section 3.3) are drawn too.
        seed: of the run.
        step: the draw depends on it and on the seed alone, so that a resumed run draws the same.
    """
    falling = sorted(set(widths), reverse=True)
    between: list[Fraction | str] = [*falling[:-1], *([MIXED] if mixed else [])]
    # A text as seed is hashed first, so neighbouring steps draw independently.
    draw = random.Random(f"{seed}/{step}")
    return [*falling[-1:], *draw.sample(between, min(count, len(between)))]


def mix(widths: Sequence[Fraction], layers: int, *, seed: int, step: int) -> list[tuple[Fraction, Fraction]]:
    """Return for each layer a width of its MLP and one of its mixers, drawn from the full width and ``widths``."""
    draw = random.Random(f"{seed}/{step}/mix")
    choices = sorted({Fraction(1), *widths})
    return [(draw.choice(choices), draw.choice(choices)) for _ in range(layers)]


def inplace_distillation(
    logits: Tensor, full_logits: Tensor, targets: Tensor, *, alpha: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``alpha * T^2 * KL(full || narrow) + (1 - alpha) * CE(narrow)``, summed over the tokens.

    In-place distillation (arXiv 1903.05134, section 3.3): the full width's own prediction, without gradient, is the
    narrow ones' teacher. There alpha is 1; the labels' share keeps a narrow model right where the full one is wrong.

    Args:
        logits: `(N, V)` of the narrow model.
        full_logits: `(N, V)`.
        targets: `(N,)`.
        alpha: the teacher's share.
        temperature: T.

    Returns:
        the loss, and without gradient the sums of the cross-entropy and of ``T^2 * KL``.
    """
    return mixed_loss(logits, full_logits, targets, hard=1 - alpha, soft=alpha, temperature=temperature)
