"""Halting: a model that may stop after any of K steps learns when to, beside what to say.

Every function takes one row of K numbers for each token, `(..., K)`, and returns sums over the tokens. Three ideas of
how a step's probability of stopping is read, and what it costs:

    stick breaking   lambda_k = sigmoid(logit_k) is the probability of stopping at step k *if it is reached*;
                     p_k = lambda_k * (1 - lambda_1) ... (1 - lambda_(k-1)), and the last step takes what is left.
                     PonderNet pulls p towards a geometric prior, LoopLM towards the uniform one (an entropy bonus).
    ACT              the halting units add up until they reach 1 - epsilon; the step where they do takes what is left.
                     Its cost, steps + remainder, has a gradient only through the remainder.
    correctness      TRM asks no distribution: the logit guesses whether the answer at this step is right already.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

# A logit beyond it is no more certain (exp(-10,000) is 0 even in fp64), and infinity would turn 0 * log 0 into NaN.
LARGEST_LOGIT = 1e4


def stop_log_probabilities(logits: Tensor) -> Tensor:
    """Return log p(stop at step k) `(..., K)` by stick breaking; `exp` of them adds up to 1.

    Banino et al. (PonderNet, arXiv 2107.05407). In logarithms, because a product of K numbers near 0 has
    lost its gradient before the loss is taken. The last logit is not read: whoever gets there stops.

    Args:
        logits: `(..., K)`, K >= 1, before the sigmoid; at least fp32 is computed in.
    """
    scores = _in_range(logits)[..., :-1]
    going_on = functional.logsigmoid(-scores).cumsum(-1)  # log of having passed steps 1 ... k
    reached = functional.pad(going_on, (1, 0))  # (..., K); every token reaches the first step
    stopping = functional.pad(functional.logsigmoid(scores), (0, 1))  # and stops at the last
    return reached + stopping


def _in_range(logits: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)


def entropy(log_probabilities: Tensor) -> Tensor:
    """Return the entropy in nats of each token's distribution, `(..., K)` to `(...)`."""
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def geometric_log_prior(steps: int, rate: float) -> Tensor:
    """Return the logarithms `(K,)` of the geometric distribution over 1 ... K, cut off there and normalised.

    ``rate * (1 - rate)^(k-1) / (1 - (1 - rate)^K)``; its limit at rate 0 is the uniform distribution.

    Raises:
        ValueError: the rate is not in [0, 1). At 1 all mass is on the first step, and the divergence infinite.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the rate of a geometric prior is at least 0 and less than 1, not {rate}")
    # Normalised over the K steps, so the factor `rate`, the same for all, falls out.
    falling = torch.arange(steps, dtype=torch.float64) * math.log1p(-rate)
    return torch.log_softmax(falling, dim=0)


def expected_loss(losses: Tensor, log_probabilities: Tensor) -> Tensor:
    """Return ``sum over tokens of sum_k p_k * loss_k``, with gradient to both.

    Args:
        losses: `(..., K)` of each step; the loss, not the output, is averaged, so each step learns to be right alone.
        log_probabilities: `(..., K)`.
    """
    return (log_probabilities.exp() * losses).sum()


def divergence_from_prior(log_probabilities: Tensor, rate: float) -> Tensor:
    """Return ``KL(p || truncated geometric(rate))`` in nats, summed over tokens (PonderNet's regulariser).

    Args:
        log_probabilities: `(..., K)`.
        rate: in [0, 1); its inverse is about the number of steps that tokens are to take.
    """
    prior = geometric_log_prior(log_probabilities.shape[-1], rate).to(log_probabilities)
    return (log_probabilities.exp() * (log_probabilities - prior)).sum()


def pondernet_loss(losses: Tensor, logits: Tensor, *, rate: float, beta: float) -> Tensor:
    """Return PonderNet's loss, expected loss + beta * KL to the prior, summed over tokens (arXiv 2107.05407)."""
    stops = stop_log_probabilities(logits)
    return expected_loss(losses, stops) + beta * divergence_from_prior(stops, rate)


def entropy_regularised_loss(losses: Tensor, logits: Tensor, *, beta: float) -> Tensor:
    """Return LoopLM's loss, expected loss - beta * entropy, summed over tokens (Zhu et al., arXiv 2510.25741).

    The same as PonderNet's with a uniform prior, but for the constant ``beta * log K``.
    """
    stops = stop_log_probabilities(logits)
    return expected_loss(losses, stops) - beta * entropy(stops).sum()


class Act(NamedTuple):
    """Adaptive computation time of each token.

    Attributes:
        probabilities: `(..., K)`: the halting units up to the last step, the remainder at it, 0 behind it.
        steps: `(...)`, N: how many steps are taken.
        remainder: `(...)`, R: what the last step's unit is replaced by.
    """

    probabilities: Tensor
    steps: Tensor
    remainder: Tensor

    @property
    def ponder_cost(self) -> Tensor:
        """N + R, summed over tokens. N is piecewise constant: the gradient, through R, pushes the units before up."""
        return (self.steps + self.remainder).sum()

    def mean_field(self, states: Tensor) -> Tensor:
        """Return the mean `(..., D)` of states `(..., K, D)` by the probabilities: Graves' output of a token."""
        return (self.probabilities.unsqueeze(-1).to(states.dtype) * states).sum(-2)


def adaptive_computation_time(logits: Tensor, epsilon: float = 0.01) -> Act:
    """Return the distribution over steps of Graves (arXiv 1603.08983, section 2.1).

    Args:
        logits: `(..., K)` before the sigmoid. Unlike in stick breaking the units add up as they are.
        epsilon: a token stops at the first step where the sum of its units reaches ``1 - epsilon``, so that one step
            can be enough.
    """
    units = torch.sigmoid(_in_range(logits))  # h_k
    stops = units.detach().cumsum(-1) >= 1 - epsilon
    stops[..., -1] = True
    # A comparison over all steps would also find later ones; what counts is the first.
    last = stops.long().argmax(-1, keepdim=True)  # (..., 1)
    step = torch.arange(units.shape[-1], device=units.device)
    before = torch.where(step < last, units, torch.zeros_like(units))
    remainder = 1 - before.sum(-1, keepdim=True)
    probabilities = torch.where(step == last, remainder, before)
    return Act(probabilities, last.squeeze(-1) + 1, remainder.squeeze(-1))


def correctness_loss(logits: Tensor, right: Tensor) -> Tensor:
    """Return the binary cross-entropy of each step's logit against 'the answer at this step is right', summed.

    Jolicoeur-Martineau (TRM, arXiv 2510.04871). The target is a fact, no gradient flows to the answers.

    Args:
        logits: `(..., K)`; all of them learn, the last one too.
        right: `(..., K)` bool: the likeliest next token is the true one.
    """
    return functional.binary_cross_entropy_with_logits(_in_range(logits), right.to(_in_range(logits)), reduction="sum")


def exit_steps(probabilities: Tensor, threshold: float) -> Tensor:
    """Return at which step, from 1, each token's *cumulative* halting probability reaches the threshold, `(...)`.

    A higher threshold thinks longer. A token that never reaches it takes all K steps; at threshold 0 it takes one.

    Args:
        probabilities: `(..., K)`, p(stop at step k).
        threshold: in [0, 1].
    """
    # The sum of all K is 1 but for rounding, and must not miss a threshold of 1 by it: the last step always stops.
    reached = probabilities[..., :-1].cumsum(-1) >= threshold
    return (~reached).long().sum(-1) + 1
