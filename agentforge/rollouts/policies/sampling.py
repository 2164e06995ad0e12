"""Drawing tokens: the same function wherever rollouts draw, so that a token's log-probability is the one it had."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from agentforge.errors import UserError


def draw(logits: Tensor, temperature: float, top_p: float, uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
    """Draw one token a row by inverting the distribution function.

    One number a row decides, so a row's tokens follow its own seed and not what its neighbours are.

    Args:
        logits: `(B, V)`.
        temperature: 0 takes the likeliest token.
        top_p: mass of the nucleus (Holtzman et al. 2020, arXiv 1904.09751): the fewest tokens that hold it.
        uniforms: `B` numbers in [0, 1).

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
        logprobs = (logits / temperature).log_softmax(-1)
        if top_p < 1:
            logprobs = _nucleus(logprobs, top_p).log_softmax(-1)
        # in fp32 the sum of 150,000 small numbers is off by more than the tail's probabilities
        mass = logprobs.exp().double().cumsum(-1)
        points = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * mass[:, -1:]
        tokens = torch.searchsorted(mass, points, right=True).clamp_(max=logits.shape[-1] - 1)
    chosen = logprobs.gather(-1, tokens)[:, 0].tolist()
    if any(value != value for value in chosen):
        raise UserError("the model gives NaN as logits: its weights are broken; go back to an earlier checkpoint")
    return tokens[:, 0].tolist(), chosen


def _nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    ordered, order = logprobs.sort(-1, descending=True)
    outside = ordered.exp().cumsum(-1) - ordered.exp() >= top_p  # the mass before a token already is enough
    return torch.full_like(logprobs, -torch.inf).scatter(-1, order, ordered.masked_fill(outside, -torch.inf))
