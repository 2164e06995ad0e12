"""The critic's objective."""

from __future__ import annotations

import torch


def value_loss(
    values: torch.Tensor,
    old_values: torch.Tensor,
    returns: torch.Tensor,
    mask: torch.Tensor,
    clip_range: float | None,
    count: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the mean squared error of the masked values, each taken clipped if that is worse.

    Clipping keeps an epoch from moving a value further than ``clip_range`` from where it was when the episode was
    played (Schulman et al., arXiv 1707.06347; as in OpenAI's baselines).

    Args:
        values: `(B, T)`, with gradient.
        old_values: `(B, T)`, when the episodes were played.
        returns: `(B, T)`, what they should be.
        mask: `(B, T)`, 1 at the model's tokens.
        clip_range: in units of the return; None: no clipping.
        count: tokens that the mean is over, where this batch is a part of what is updated on at once; None: its own.
    """
    error = (values - returns) ** 2
    if clip_range is not None:
        clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
        # The worse of the two: clipping may take away the gain of a large step, never its cost.
        error = torch.maximum(error, (clipped - returns) ** 2)
    return (error * mask).sum() / (mask.sum().clamp(min=1) if count is None else count)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return 1 - Var(returns - values) / Var(returns) over the masked tokens: 1 is perfect, 0 a constant, below: worse.

    0 where all returns are alike: there is nothing to explain.
    """
    inside = mask.bool()
    spread = returns[inside].var(unbiased=False)
    if not inside.any() or spread < 1e-8:
        return torch.zeros((), device=values.device)
    return 1 - (returns - values)[inside].var(unbiased=False) / spread
