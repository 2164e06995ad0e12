"""Generalised advantage estimation for episodes of turns: each turn is one action, its tokens are how it is spelt.

gamma and lambda act where one turn ends and the next begins; within a turn both are 1. Discounting each token instead
would make an answer worth less for being spelt out: 0.99 a token is 0.13 after a turn of 200 tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, ends: torch.Tensor, gamma: float, lam: float
) -> torch.Tensor:
    """Return advantages `(B, T)`, 0 where ``mask`` is 0 (Schulman et al., arXiv 1506.02438, eq. 16).

    The environment's tokens are no steps: the state after a turn is the one before the next turn's first token. An
    episode ends with its last turn, whether it was terminated or its turns ran out: the limit is part of the task.

    Args:
        rewards: `(B, T)`, each at the last token of its turn, 0 elsewhere.
        values: `(B, T)`, of the state before each token.
        mask: `(B, T)`, 1 at the model's tokens.
        ends: `(B, T)`, 1 at the last token of each turn.
        gamma: discount from turn to turn.
        lam: decay of the trace from turn to turn.
    """
    # A row of two turns (m: the model's tokens, e: the environment's):
    #
    #     token  m m m e e m m
    #     last   0 0 1 0 0 0 1
    #     turn   0 0 0 1 1 1 1    what lies between turns falls to the next one, and the mask drops it
    inside, last = mask.bool(), ends.long()
    turn = last.cumsum(1) - last  # (B, T), the turn a token belongs to
    turns = int(last.sum(1).max()) + 1 if last.numel() else 1
    first = inside & _begins(inside, last.bool())
    reward = values.new_zeros(len(values), turns).scatter_add_(1, turn, rewards * last)
    start = values.new_zeros(len(values), turns).scatter_add_(1, turn, values * first)
    target = torch.zeros_like(start)  # (B, K), the lambda-return of a turn; behind the last one everything is 0
    following, following_start = (values.new_zeros(len(values)) for _ in range(2))
    for k in reversed(range(turns)):
        target[:, k] = reward[:, k] + gamma * ((1 - lam) * following_start + lam * following)
        following, following_start = target[:, k], start[:, k]
    return (target.gather(1, turn) - values) * inside


def _begins(inside: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    # a turn begins at a model token that follows the environment's text or another turn's end
    follows = inside[:, :-1] & ~ends[:, :-1]
    return torch.cat([torch.ones_like(inside[:, :1]), ~follows], dim=1)


def whiten(
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    scale: bool = True,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> torch.Tensor:
    """Return advantages of mean 0 and variance 1 over the masked tokens, 0 at the others.

    Args:
        advantages: `(B, T)`.
        mask: `(B, T)`.
        scale: divide by the standard deviation; not where all episodes earned the same, for then the advantages are
            only the critic's errors, and would be blown up to the size of a signal.
        reduce: sums a tensor over all processes.
    """
    weight = mask.to(advantages)
    count, total = reduce(torch.stack([weight.sum(), (advantages * weight).sum()]))
    mean = total / count.clamp(min=1)
    centred = (advantages - mean) * weight
    if not scale:
        return centred
    variance = reduce((centred**2).sum()) / count.clamp(min=1)
    return centred / (variance.sqrt() + 1e-8)
