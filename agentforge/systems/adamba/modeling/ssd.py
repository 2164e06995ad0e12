"""The scan of Mamba-2 in plain torch, for wherever its CUDA kernels are not.

State-space duality (Dao and Gu, arXiv 2405.21060, section 6): within a chunk the scan is a masked matrix product like
attention, between chunks a short recurrence on the states. Inputs are left in the layout that the projections give,
B and C are multiplied once per group instead of once per head, and the backward pass is written out: the gradient of
the decays needs no matrix of the size of a chunk squared, because the row sums of ``dM * M`` are those of ``dy * y``.

Dimensions: b batch, c chunks, q positions in a chunk, g groups, r heads of a group, p channels of a head, n states.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

SHORTEST_CHUNK, LONGEST_CHUNK = 32, 128
# Above the diagonal the difference of two cumulated decays is positive and may overflow; its product is 0 anyway.
LARGEST_EXPONENT = 80.0


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the outputs and the last state of ``h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t``, ``y_t = h_t C_t + D x_t``.

    It is computed in fp32, or in fp64 where ``x`` is that.

    Args:
        x: `(B, T, heads, head_dim)`.
        dt: positive time steps `(B, T, heads)`.
        A: negative decays `(heads,)`.
        B: what enters the state, `(B, T, groups, states)`; head i belongs to group ``i // (heads / groups)``.
        C: what is read from it, of B's shape.
        D: `(heads,)`.
        initial_state: `(B, heads, head_dim, states)`; None is zero.

    Returns:
        y `(B, T, heads, head_dim)` and the state `(B, heads, head_dim, states)`, in the dtype of the computation.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    length, groups = x.shape[1], B.shape[2]
    chunk = chunk_length(length, x.shape[3] * B.shape[3])
    x, dt, B, C = (_whole_chunks(tensor.to(dtype), chunk) for tensor in (x, dt, B, C))
    heads, head_dim = x.shape[2:]
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], heads, head_dim, B.shape[3])
    # states are held as (b, g, n, r, p), so that one product serves all heads of a group
    start = initial_state.to(dtype).unflatten(1, (groups, -1)).permute(0, 1, 4, 2, 3)
    with torch.autocast(x.device.type, enabled=False):
        y, end = _Scan.apply(x, dt, A.to(dtype), B, C, D.to(dtype), start, chunk)
    return y[:, :length], end.permute(0, 1, 3, 4, 2).flatten(1, 2)


def chunk_length(length: int, state_size: int) -> int:
    """Return how long the chunks are: work within them grows with it, work on states of ``state_size`` shrinks.

    A sequence is divided evenly, so that hardly anything is padded.
    """
    wanted = min(LONGEST_CHUNK, max(SHORTEST_CHUNK, 2 ** int(math.log2(state_size) / 2)))
    if length <= 2 * wanted:
        return length
    return math.ceil(length / math.ceil(length / wanted))


def _whole_chunks(tensor: Tensor, chunk: int) -> Tensor:
    missing = -tensor.shape[1] % chunk
    return functional.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing)) if missing else tensor


class _Scan(torch.autograd.Function):
    """The scan over whole chunks, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, start: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        # Unrolled, the recurrence reads y_i = sum over j < i of (C_i . B_j) exp(time_i - time_j) dt_j x_j. Pairs
        # within a chunk form a masked matrix product, like attention without softmax (`within`). Everything from
        # earlier chunks reaches a position through a single state, the one at the border of its chunk (`between`). A
        # position's own input is added at the end.
        groups = B.shape[2]
        parts = _Chunks(x, dt, A, B, C, chunk)
        weights = _decays(parts.time, parts.dt)
        mixed = _by_group(weights, groups) * parts.scores.unsqueeze(3)
        within = mixed.flatten(2, 3) @ parts.x.transpose(2, 3)  # (b, c, h, q, p)
        states, end = _recur(parts.inputs(), parts.kept(), start)
        between = parts.C @ states.flatten(4)  # (b, c, g, q, r * p)
        y = torch.addcmul(within.transpose(2, 3), parts.natural(between), parts.time.exp().transpose(2, 3)[..., None])
        ctx.save_for_backward(x, dt, A, B, C, D, y, weights, states, end)
        ctx.chunk = chunk
        return torch.addcmul(y, parts.x, parts.skip(D)).reshape(x.shape), end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_end: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, y, weights, states, end = ctx.saved_tensors
        parts = _Chunks(x, dt, A, B, C, ctx.chunk)
        dy = dy.contiguous().view_as(parts.x)
        dy_heads, x_heads = dy.transpose(2, 3).contiguous(), parts.x.transpose(2, 3)

        # within the chunks
        d_mixed = _by_group(dy_heads @ x_heads.transpose(-1, -2), B.shape[2])
        d_scores = (d_mixed * _by_group(weights, B.shape[2])).sum(3).tril_(-1)
        mixed = (_by_group(weights, B.shape[2]) * parts.scores.unsqueeze(3)).flatten(2, 3)
        dx = (mixed.transpose(-1, -2) @ dy_heads).transpose(2, 3)

        # between them
        dy_grown = parts.grouped(dy * parts.time.exp().transpose(2, 3)[..., None])  # (b, c, g, q, r * p)
        d_states = (parts.C.transpose(-1, -2) @ dy_grown).view_as(states)
        d_ends, d_start = _recur_back(d_states, parts.kept(), d_end)
        d_inputs = parts.natural(parts.B @ d_ends.flatten(4))
        dx = torch.addcmul(dx, d_inputs, parts.reach().transpose(2, 3)[..., None])

        # a position's own input, without any decay
        d_skip = (dy * parts.x).sum(-1)
        d_own = _by_group(d_skip.transpose(2, 3) * parts.dt, B.shape[2]).sum(3).unsqueeze(-1)

        dC = d_scores @ parts.B + dy_grown @ states.flatten(4).transpose(-1, -2)
        dC.addcmul_(d_own, parts.B)
        dB = d_scores.transpose(-1, -2) @ parts.C + parts.reaching() @ d_ends.flatten(4).transpose(-1, -2)
        dB.addcmul_(d_own, parts.C)

        # The exponents. exp is its own derivative, so the gradient of time_i is dy_i . y_i, and that of time_j is
        # -dx_j . x_j: the (q, q) matrix of their products is never formed. The last time of a chunk also scales the
        # state it hands on. Times are running sums of dt A, so their gradients are summed from the end.
        by_input = (parts.x * dx).sum(-1)
        d_time = (dy * y).sum(-1) - by_input
        ends = torch.cat([states[:, 1:], end.unsqueeze(1)], 1)
        d_time[:, :, -1] += (d_ends * ends).sum((3, 5)).flatten(2)
        d_decay = d_time.flip(2).cumsum(2).flip(2)
        steps = dt.view_as(d_decay)
        # Within the scan an input appears only as dt_j x_j, hence dx_j . x_j / dt_j. Where a step is 0 (padding) so
        # is the numerator.
        d_dt = torch.addcmul(by_input / steps.clamp_min(torch.finfo(dt.dtype).tiny), d_decay, A)
        d_dt.addcmul_(d_skip, parts.own())
        dx = torch.addcmul(dx, dy, parts.skip(D))
        return (
            dx.reshape(x.shape),
            d_dt.view_as(dt),
            (d_decay * steps).sum((0, 1, 2)),
            dB.transpose(2, 3).reshape(B.shape),
            dC.transpose(2, 3).reshape(C.shape),
            d_skip.sum((0, 1, 2)),
            d_start,
            None,
        )


class _Chunks:
    """Inputs cut into chunks, and what both passes derive from them."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> None:
        self.groups = B.shape[2]
        self.x = x.unflatten(1, (-1, chunk))  # (b, c, q, h, p)
        self.dt = dt.unflatten(1, (-1, chunk)).transpose(2, 3)  # (b, c, h, q)
        self.time = (self.dt * A[:, None]).cumsum(-1)
        self.B = B.unflatten(1, (-1, chunk)).transpose(2, 3)  # (b, c, g, q, n)
        self.C = C.unflatten(1, (-1, chunk)).transpose(2, 3)
        # (b, c, g, q, q) without the diagonal, which no decay acts on: it stands with D. With it the gradient of the
        # decays would be a small difference of large sums
        self.scores = (self.C @ self.B.transpose(-1, -2)).tril_(-1)

    def own(self) -> Tensor:
        """What of a position's input times dt comes back at that position: `(b, c, q, h)`."""
        products = (self.C * self.B).sum(-1).transpose(2, 3)
        return products.repeat_interleave(self.x.shape[3] // self.groups, -1)

    def skip(self, D: Tensor) -> Tensor:
        """The factor of a position's own input in its output: `(b, c, q, h, 1)`."""
        return torch.addcmul(D, self.dt.transpose(2, 3), self.own()).unsqueeze(-1)

    def kept(self) -> Tensor:
        """How much of a state a chunk leaves: `(b, c, g, 1, r, 1)`."""
        return self.time[..., -1].exp().unflatten(2, (self.groups, 1, -1)).unsqueeze(-1)

    def reach(self) -> Tensor:
        """How much of an input is left at the end of its chunk: `(b, c, h, q)`."""
        return (self.time[..., -1:] - self.time).exp_().mul_(self.dt)

    def reaching(self) -> Tensor:
        return self.grouped(self.x * self.reach().transpose(2, 3)[..., None])

    def inputs(self) -> Tensor:
        """What each chunk adds to the state: `(b, c, g, n, r, p)`."""
        return (self.B.transpose(-1, -2) @ self.reaching()).unflatten(-1, (-1, self.x.shape[-1]))

    def grouped(self, tensor: Tensor) -> Tensor:
        """`(b, c, q, h, p)` -> `(b, c, g, q, r * p)`."""
        return tensor.unflatten(3, (self.groups, -1)).flatten(4).transpose(2, 3)

    def natural(self, tensor: Tensor) -> Tensor:
        """`(b, c, g, q, r * p)` -> `(b, c, q, h, p)`."""
        return tensor.transpose(2, 3).unflatten(-1, (-1, self.x.shape[-1])).flatten(3, 4)


def _by_group(tensor: Tensor, groups: int) -> Tensor:
    return tensor.unflatten(2, (groups, -1))


def _decays(time: Tensor, dt: Tensor) -> Tensor:
    """Return ``exp(time_i - time_j) dt_j`` `(b, c, h, q, q)`; above the diagonal it is any finite number."""
    exponents = time.unsqueeze(-1) - (time - dt.log()).unsqueeze(-2)
    return exponents.clamp_(max=LARGEST_EXPONENT).exp_()


def _recur(inputs: Tensor, kept: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state before each chunk `(b, c, g, n, r, p)` and the one after the last."""
    # The only loop over time, and it runs over chunks. Everything else is matrix products.
    states = torch.empty_like(inputs)
    state = start
    for number in range(inputs.shape[1]):
        states[:, number] = state
        state = torch.addcmul(inputs[:, number], state, kept[:, number])
    return states, state


def _recur_back(d_states: Tensor, kept: Tensor, d_end: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the state after each chunk, and of the first."""
    d_ends = torch.empty_like(d_states)
    gradient = d_end
    for number in reversed(range(d_states.shape[1])):
        d_ends[:, number] = gradient
        gradient = torch.addcmul(d_states[:, number], gradient, kept[:, number])
    return d_ends, gradient


def selective_step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor) -> Tensor:
    """Return `selective_scan`'s output for one position, and write the new state over the old one.

    Args:
        x: `(B, 1, heads, head_dim)`.
        dt: `(B, 1, heads)`.
        A: `(heads,)`.
        B: `(B, 1, groups, states)`.
        C: of B's shape.
        D: `(heads,)`.
        state: `(B, heads, head_dim, states)`.
    """
    # The recurrence itself. It writes in place because the cache holds this very tensor.
    groups = B.shape[2]
    x, dt = x[:, 0].to(dt.dtype), dt[:, 0]
    state.mul_(torch.exp(dt * A)[..., None, None])
    grouped = state.unflatten(1, (groups, -1)).flatten(2, 3)  # (b, g, r * p, n), a view
    inputs = (x * dt.unsqueeze(-1)).unflatten(1, (groups, -1)).flatten(2)
    grouped.addcmul_(inputs.unsqueeze(-1), B[:, 0].unsqueeze(2))
    y = (grouped.to(dt.dtype) @ C[:, 0].unsqueeze(-1).to(dt.dtype)).view_as(x)
    return torch.addcmul(y, x, D.to(dt.dtype).unsqueeze(-1)).unsqueeze(1)
