"""What a forward pass leaves behind for whoever trains, measures or evaluates a Cognate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass
class StepStates:
    """A forward pass over `(B, T)` tokens, K iterations and the L layers that have a memory.

    Attributes:
        hidden: K tensors `(B, T, D)` behind the last norm, what the head reads after each iteration, with gradient
            (none for the first `no_grad_recursions`).
        answer: `(B, T, D)` with gradient, what the head reads: the last of `hidden`; with ``halting: act`` their mean
            by the halting probabilities.
        halting_logits: `(B, T, K)` before the sigmoid, with gradient; None without a halting head
            (`config.halts`). `sigmoid` is the probability of stopping after iteration k if it is reached; the last is
            not read, for whoever gets there stops.
        halt_probabilities: `(B, T, K)` detached fp32, p(stop at step k), by stick breaking or ACT as the config says;
            None without a halting head.
        memory_share: `(B, T, L)`, the memory's share 1 - g of what the layer writes, mean over channels and, in the
            core, over its runs; with gradient. L = 0 without memories.
        surprise: `(B, T, L)` detached, norm of what the memory's write corrects, mean over heads and runs.
        decay: `(B, T, L)` detached, share of the memory that is kept at this token, mean over heads and runs.
        halting_steps: `(B, T)` int64, iterations that each token was computed in: K unless `exit_threshold` ended it.
        prelude: `(B, T, D)` of the embeddings and behind each layer of the prelude.
        real: `(B, T)` bool, false for padding; None: every token is real.
        past_key_values: the cache, if one was asked for.
    """

    hidden: tuple[Tensor, ...]
    answer: Tensor
    halting_logits: Tensor | None
    halt_probabilities: Tensor | None
    memory_share: Tensor
    surprise: Tensor
    decay: Tensor
    halting_steps: Tensor
    prelude: tuple[Tensor, ...] = ()
    real: Tensor | None = None
    past_key_values: Any = None
