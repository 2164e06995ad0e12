"""The short causal convolution in front of Mamba's scan, in plain torch.

Four multiply-adds over the sequence, in the layout that the projection gives: torch's grouped convolution wants the
channels first and takes two to three times as long, most of it in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def causal_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, before: Tensor | None = None) -> Tensor:
    """Return ``y_t = bias + sum_k weight_k x_(t - K + 1 + k)`` for each channel.

    Args:
        x: `(B, T, channels)`.
        weight: `(channels, 1, K)`, as a grouped `nn.Conv1d` has it.
        bias: `(channels,)` or None.
        before: the K - 1 inputs before ``x``, `(B, K - 1, channels)`; None is zeros.
    """
    margin = weight.shape[-1] - 1
    padded = functional.pad(x, (0, 0, margin, 0)) if before is None else torch.cat([before, x], 1)
    return _Convolution.apply(padded, weight, bias)


class _Convolution(torch.autograd.Function):
    """The multiply-adds over an input that has its margin, with their gradient."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # One multiply-add per tap over the whole sequence, in the (B, T, channels) layout that the projection leaves.
        taps = weight.squeeze(1).t().contiguous()  # (K, channels)
        length = padded.shape[1] - len(taps) + 1
        y = padded[:, :length] * taps[0] if bias is None else torch.addcmul(bias, padded[:, :length], taps[0])
        for k in range(1, len(taps)):
            y.addcmul_(padded[:, k : k + length], taps[k])
        ctx.save_for_backward(padded, taps)
        ctx.biased = bias is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        padded, taps = ctx.saved_tensors
        length = dy.shape[1]
        d_padded = torch.zeros_like(padded)
        for k in range(len(taps)):
            d_padded[:, k : k + length].addcmul_(dy, taps[k])
        d_taps = [(dy * padded[:, k : k + length]).sum((0, 1)) for k in range(len(taps))]
        return d_padded, torch.stack(d_taps, -1).unsqueeze(1), dy.sum((0, 1)) if ctx.biased else None
