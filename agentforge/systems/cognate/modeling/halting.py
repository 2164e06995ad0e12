"""When a token has thought enough, and what is read of one that thought in several steps."""

from __future__ import annotations

import torch
from torch import Tensor

from agentforge.losses.halting import adaptive_computation_time, stop_log_probabilities
from agentforge.systems.cognate.modeling.configuration import CognateConfig


def halting_probabilities(config: CognateConfig, logits: Tensor) -> Tensor:
    """Return p(stop at step k) `(..., K)` in fp32, of halting logits `(..., K)`; it adds up to 1."""
    if config.halting == "act":
        return adaptive_computation_time(logits).probabilities
    return stop_log_probabilities(logits).exp()


def has_halted(config: CognateConfig, logits: Tensor, threshold: float) -> Tensor:
    """Tell of which tokens the cumulative halting probability has reached the threshold, `(...)` bool.

    Args:
        config: says whether units add up (ACT) or are probabilities of stopping if the step is reached.
        logits: `(..., k)` of the steps so far.
        threshold: in [0, 1]; higher thinks longer.
    """
    rates = torch.sigmoid(logits.float())
    reached = rates.sum(-1) if config.halting == "act" else 1 - (1 - rates).prod(-1)
    return reached >= threshold


def answer_of(config: CognateConfig, hidden: tuple[Tensor, ...], logits: Tensor | None) -> Tensor:
    """Return what the head reads, `(B, T, D)`: the last step, of ACT the mean over steps by their probabilities.

    A step that a frozen token did not take repeats its last one, so that both are its answer whenever it stopped.
    """
    if config.halting != "act" or logits is None:
        return hidden[-1]
    weights = halting_probabilities(config, logits).to(hidden[-1].dtype)
    return (torch.stack(hidden, -2) * weights.unsqueeze(-1)).sum(-2)
