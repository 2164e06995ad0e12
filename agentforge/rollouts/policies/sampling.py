"""Drawing tokens: the same function wherever rollouts draw, so that a token's log-probability is the one it had."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.rollouts.policies.base import Sampling


def draw_next(
    logits: Tensor, sampling: Sampling, uniforms: Sequence[float], contexts: Iterable[Sequence[int]]
) -> tuple[list[int], list[float]]:
    """Draw as ``sampling`` says; see `draw` and `penalize`. The contexts are looked at only if there is a penalty."""
    logits = penalize(logits, contexts, sampling.repetition_penalty)
    return draw(logits, sampling.temperature, sampling.top_p, uniforms, top_k=sampling.top_k, min_p=sampling.min_p)


def draw(
    logits: Tensor,
    temperature: float,
    top_p: float,
    uniforms: Sequence[float],
    *,
    top_k: int = 0,
    min_p: float = 0.0,
) -> tuple[list[int], list[float]]:
    """Draw one token a row by inverting the distribution function.

    One number a row decides, so a row's tokens follow its own seed and not what its neighbours are.

    Args:
        logits: `(B, V)`.
        temperature: 0 takes the likeliest token.
        top_p: mass of the nucleus (Holtzman et al. 2020, arXiv 1904.09751): the fewest tokens that hold it.
        uniforms: `B` numbers in [0, 1).
        top_k: see `filtered`.
        min_p: see `filtered`.

    Returns:
        `B` tokens, and their log-probabilities in the distribution they were drawn from (temperature 0: the model's).

    Raises:
        UserError: a row has no distribution: NaN, or infinity.
    """
    logits = logits.float()
    if temperature == 0:
        logprobs = logits.log_softmax(-1)
        tokens = logits.argmax(-1, keepdim=True)
    else:
        logprobs = filtered(logits / temperature, top_p, top_k, min_p)
        # in fp32 the sum of 150,000 small numbers is off by more than the tail's probabilities
        mass = logprobs.exp().double().cumsum(-1)
        points = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * mass[:, -1:]
        tokens = torch.searchsorted(mass, points, right=True).clamp_(max=logits.shape[-1] - 1)
    chosen = logprobs.gather(-1, tokens)[:, 0].tolist()
    if any(value != value for value in chosen):
        raise UserError("the model returned NaN logits: its weights are broken; go back to an earlier checkpoint")
    return tokens[:, 0].tolist(), chosen


def filtered(logits: Tensor, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0) -> Tensor:
    """Return the log-probabilities `(B, V)` of what the filters leave, renormalised; -inf for the rest.

    The order is that of transformers and vLLM: the temperature has been applied, then top_k, top_p, min_p. Each filter
    sees the distribution that the one before it has left, so another order is another distribution.

    Args:
        logits: `(B, V)`, divided by the temperature.
        top_p: see `draw`; 1 leaves every token in.
        top_k: the likeliest tokens that stay, ties with the last of them too; 0: all.
        min_p: tokens stay that have this share of the likeliest one's probability (Nguyen et al. 2024, arXiv
            2407.01082); 0: all.
    """
    logprobs = logits.log_softmax(-1)
    if 0 < top_k < logits.shape[-1]:
        last = logprobs.topk(top_k, dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < last, -torch.inf).log_softmax(-1)
    if top_p < 1:
        logprobs = _nucleus(logprobs, top_p).log_softmax(-1)
    if min_p > 0:
        floor = logprobs.amax(-1, keepdim=True) + math.log(min_p)
        logprobs = logprobs.masked_fill(logprobs < floor, -torch.inf).log_softmax(-1)
    return logprobs


def penalize(logits: Tensor, contexts: Iterable[Sequence[int]], penalty: float) -> Tensor:
    """Return logits `(B, V)` in which every token that stands in its row's context is less likely.

    Keskar et al. 2019, arXiv 1909.05858: positive logits are divided by the penalty, negative ones multiplied.

    Args:
        contexts: `B` rows of token ids, prompt and answer.
        penalty: 1 changes nothing; below 1 repetition is rewarded.
    """
    if penalty == 1:
        return logits
    logits = logits.float().clone()
    for row, context in zip(logits, contexts, strict=True):
        seen = torch.tensor(sorted(set(context)), dtype=torch.long, device=logits.device)
        row[seen] = torch.where(row[seen] < 0, row[seen] * penalty, row[seen] / penalty)
    return logits


def _nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    ordered, order = logprobs.sort(-1, descending=True)
    outside = ordered.exp().cumsum(-1) - ordered.exp() >= top_p  # the mass before a token already is enough
    return torch.full_like(logprobs, -torch.inf).scatter(-1, order, ordered.masked_fill(outside, -torch.inf))
