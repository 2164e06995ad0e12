"""What gates learn from.

A gate of an early exit learns by shadowing: the model always runs to the end, and the gate guesses whether it had to.
A gate between two branches, attention and memory, only has to be kept from closing before the second one is any good.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Shadow(NamedTuple):
    """Sums over tokens.

    Attributes:
        loss: binary cross-entropy of the gate; the only one with gradient.
        agreed: tokens whose likeliest next token is the same at the exit and at full depth.
        right: tokens where the gate at 1/2 says what is so.
    """

    loss: Tensor
    agreed: Tensor
    right: Tensor


def shadow_loss(gate_logits: Tensor, exit_logits: Tensor, full_logits: Tensor) -> Shadow:
    """Return what a gate's guesses are worth: does the exit's likeliest token agree with full depth's?

    The target is what is asked of the exit when it is used, measured and not modelled: an exit's cross-entropy says how
    hard a token is, not whether more layers would change the answer. Neither logits get gradient; give the gate
    detached hidden states, for a model must not learn to look sure.

    Args:
        gate_logits: `(N,)`, before the sigmoid.
        exit_logits: `(N, V)`.
        full_logits: `(N, V)`.
    """
    agrees = exit_logits.argmax(-1) == full_logits.argmax(-1)  # (N,)
    loss = functional.binary_cross_entropy_with_logits(gate_logits.float(), agrees.float(), reduction="sum")
    right = (gate_logits.detach() > 0) == agrees
    return Shadow(loss, agrees.sum(), torch.as_tensor(right.sum()))


def share_floor_loss(shares: Tensor, tokens: Tensor, floor: float) -> Tensor:
    """Return ``sum over rows of tokens * mean over layers of max(floor - share, 0)``.

    Early on the memory is noise, and the quickest way down is to shut it out; a sigmoid that has closed has no gradient
    by which it would open again. The hinge keeps a minimum open, and above it says nothing: an entropy bonus, which is
    also used for this, pulls every gate to 1/2 for ever. Anneal its weight to 0, for in the end the gate is to be free.

    The mean is taken over a row and not over the batch: a hinge of a mean over more rows would depend on how the
    rows are divided into micro-batches and among processes.

    Args:
        shares: `(B, L)`, the mean over a row's tokens of the share that the branch has in each layer, in [0, 1].
        tokens: `(B,)`, how many tokens the mean is over.
        floor: the least share that costs nothing.
    """
    missing = (floor - (shares if shares.dtype == torch.float64 else shares.float())).clamp(min=0).mean(-1)  # (B,)
    return (tokens.to(missing) * missing).sum()


def annealed(weight: float, progress: float) -> float:
    """Return a weight that falls linearly to 0 at the end of the run; ``progress`` is in [0, 1]."""
    return weight * max(1 - progress, 0.0)
