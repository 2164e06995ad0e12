"""The depthwise causal convolutions in front of the memory, in plain torch, that never look across a document's start.

A multiply-add per tap over the whole sequence, in the `(B, T, channels)` layout that projections leave: torch's grouped
convolution wants the channels first, and knows nothing of documents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def short_convolution(x: Tensor, weight: Tensor, tail: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ``y_t = sum_j weight_j x_(t - j)`` over the tokens of t's own document, and the inputs with their tail.

    Args:
        x: `(B, T, channels)`.
        weight: `(channels, K)`; the last tap is the token's own, as in `nn.Conv1d`.
        tail: `(B, K - 1, channels)`, the inputs before `x`; zeros where the document has none.
        starts: `(B, T)` bool, a document begins here; None: nowhere.

    Returns:
        y `(B, T, channels)`, and `tail` and `x` in one tensor `(B, K - 1 + T, channels)`.
    """
    inputs = torch.cat([tail, x], 1)
    near = None if starts is None else same_document(starts, weight.shape[-1]).to(x.dtype)
    return _Convolution.apply(inputs, weight, near), inputs


def same_document(starts: Tensor, taps: int) -> Tensor:
    """Return whether the token j before is of the same document, `(B, T, taps)` bool with j from taps - 1 to 0.

    Args:
        starts: `(B, T)` bool.
        taps: how far to look, the token itself included.
    """
    columns = torch.arange(starts.shape[1], device=starts.device)
    # A row without a start so far goes on from its tail, which is of the same document or zero.
    begun = torch.where(starts, columns, -taps).cummax(1).values
    return (columns - begun)[..., None] >= torch.arange(taps - 1, -1, -1, device=starts.device)


class _Convolution(torch.autograd.Function):
    """The multiply-adds and their gradient: autograd would keep a copy of the inputs for every tap."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, near: Tensor | None) -> Tensor:
        taps = weight.t().contiguous()  # (K, channels)
        length = inputs.shape[1] - len(taps) + 1
        y = inputs[:, len(taps) - 1 :] * taps[-1]
        for j in range(len(taps) - 1):
            seen = inputs[:, j : j + length]
            y.addcmul_(seen if near is None else seen * near[..., j, None], taps[j])
        ctx.save_for_backward(inputs, taps, near)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        inputs, taps, near = ctx.saved_tensors
        length = dy.shape[1]
        d_inputs, d_taps = torch.zeros_like(inputs), []
        for j, tap in enumerate(taps):
            dy_j = dy if near is None else dy * near[..., j, None]
            d_inputs[:, j : j + length].addcmul_(dy_j, tap)
            d_taps.append((dy_j * inputs[:, j : j + length]).sum((0, 1)))
        return d_inputs, torch.stack(d_taps, -1), None
