"""The cross-entropy behind a language model's head, without its logits: the widest tensors of a small model.

At 16 rows of 512 tokens, 32,768 words and 3 steps of recursion, the logits alone would be 3.2 GB in fp32, and softmax
and gradient as much again each. Here one block of rows at a time is multiplied, reduced and, since the gradient of a
cross-entropy is known when its softmax is, differentiated at once; what is kept for the backward pass is as wide as
the hidden states. Unlike `checkpoint`, nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Of one block of logits in fp32. Larger blocks are no faster, neither on a CPU nor on a GPU of this decade.
BLOCK_BYTES = 2**27


class TokenLosses(NamedTuple):
    """What the tokens cost.

    Attributes:
        loss: the weighted sum; the only one with gradient.
        entropies: `(N,)` in fp32, each token's cross-entropy in nats.
        right: `(N,)` bool: no word is likelier than the target.
    """

    loss: Tensor
    entropies: Tensor
    right: Tensor


def linear_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None = None) -> TokenLosses:
    """Return ``sum_n weights_n * CE(head @ hidden_n, targets_n)`` with gradient to hidden states, head and weights.

    Args:
        hidden: `(N, D)`; under autocast it is multiplied in autocast's dtype, the reductions are in fp32 at least.
        head: `(V, D)`, the weight of the output embeddings.
        targets: `(N,)` ids.
        weights: `(N,)`; none: each token counts once.
    """
    counts = torch.ones_like(targets, dtype=torch.float32) if weights is None else weights
    loss, entropies, right = _LinearCrossEntropy.apply(hidden, head, targets, counts)
    return TokenLosses(loss, entropies, right)


def head_cross_entropy(head: nn.Module, hidden: Tensor, targets: Tensor, weights: Tensor) -> TokenLosses:
    """Return the same of a head as a module: without a block's logits twice where it is a plain matrix.

    A head that LoRA has changed, that has a bias, or that something hooks into, is run as it stands; its blocks are
    computed again for the gradient.
    """
    if type(head) is nn.Linear and head.bias is None and not head._forward_hooks and not head._forward_pre_hooks:
        return linear_cross_entropy(hidden, head.weight, targets, weights)
    size = max(BLOCK_BYTES // (4 * int(head(hidden[:1]).shape[-1])), 1)
    loss = torch.zeros((), device=hidden.device)
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, max(len(targets), 1), size):
        rows = slice(start, start + size)
        made, *each = checkpoint(_block, head, hidden[rows], targets[rows], weights[rows], use_reentrant=False)
        loss = loss + made
        found.append((each[0], each[1]))
    entropies, right = (torch.cat(list(parts)) for parts in zip(*found, strict=True))
    return TokenLosses(loss, entropies, right)


def _block(head: nn.Module, hidden: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = head(hidden)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    entropies = functional.cross_entropy(wide, targets, reduction="none")
    return (weights * entropies).sum(), entropies.detach(), logits.detach().argmax(-1) == targets


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        # Dtypes are chosen here; autocast, which reaches into a Function, would change them again.
        with torch.autocast(kind, enabled=False):
            made = _sums_and_gradients(hidden, head, targets, weights, dtype, ctx.needs_input_grad)
        loss, entropies, right, to_hidden, to_head = made
        ctx.save_for_backward(to_hidden, to_head, entropies)
        ctx.dtypes = hidden.dtype, head.dtype, weights.dtype
        ctx.mark_non_differentiable(entropies, right)
        return loss, entropies, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_head, of_weights = ctx.dtypes
        to_hidden, to_head, entropies = ctx.saved_tensors
        return (
            None if to_hidden is None else (to_hidden * loss.to(to_hidden.dtype)).to(of_hidden),
            None if to_head is None else (to_head * loss).to(of_head),
            None,
            (entropies * loss).to(of_weights) if ctx.needs_input_grad[3] else None,
        )


def _sums_and_gradients(
    hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor, dtype: torch.dtype, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return loss, entropies, whether the likeliest word is right, and the gradients to hidden states and head."""
    inputs, matrix = hidden.to(dtype), head.to(dtype)
    # The loss scaler of fp16 comes only in the backward pass: of gradients that are made here, most would round to 0.
    fine = torch.float32 if dtype == torch.float16 else dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    to_hidden = torch.empty_like(hidden, dtype=fine) if wanted[0] else None
    to_head = torch.zeros_like(head, dtype=wide) if wanted[1] else None
    entropies = torch.empty(len(targets), dtype=wide, device=hidden.device)
    right = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
    size = max(BLOCK_BYTES // (4 * len(head)), 1)
    for start in range(0, len(targets), size):
        rows = slice(start, start + size)
        scores = (inputs[rows] @ matrix.T).to(wide)
        truth, weight = targets[rows, None], weights[rows, None].to(wide)
        largest, wanted_score = scores.amax(-1, keepdim=True), scores.gather(1, truth)
        right[rows] = (wanted_score == largest).squeeze(1)
        # One exponential for the sum and the softmax, and all in place: the passes over this tensor are what costs.
        powers = scores.sub_(largest).exp_()
        total = powers.sum(-1, keepdim=True)
        entropies[rows] = (total.log() + (largest - wanted_score)).squeeze(1)
        if to_hidden is None and to_head is None:
            continue
        # d CE / d logits = softmax - one_hot
        gradient = powers.mul_(weight / total).scatter_add_(1, truth, -weight).to(fine)
        if to_hidden is not None:
            to_hidden[rows] = gradient @ matrix.to(fine)
        if to_head is not None:
            to_head += (gradient.T @ inputs[rows].to(fine)).to(wide)
    return (weights.to(wide) * entropies).sum(), entropies, right, to_hidden, to_head
