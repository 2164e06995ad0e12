"""Gates of early exits learn by shadowing: the model always runs to the end, and the gate guesses whether it had to."""

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
