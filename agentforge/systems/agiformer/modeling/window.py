"""Attention to the last W positions, in blocks: time and memory grow with T * W, not with T * T."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

Window = tuple[Tensor, Tensor]
"""Keys and values `(R, H, W, d)` of the last W positions, flush right; what lies before the first one is not read."""


def window_attention(
    queries: Tensor, keys: Tensor, values: Tensor, window: int, past: Window | None = None, seen: Tensor | None = None
) -> Tensor:
    """Return `(R, H, T, d)`: each position attends to itself and the ``window - 1`` before it.

    Args:
        queries: `(R, H, T, d)`, rotated.
        keys: the same.
        values: `(R, H, T, d)`.
        window: W.
        past: of the positions before; None: there are none.
        seen: `(R,)` how many there are.
    """
    length = queries.shape[2]
    if past is None and length <= window:
        return functional.scaled_dot_product_attention(queries, keys, values, is_causal=length > 1)
    if past is None:
        empty = keys.new_zeros(*keys.shape[:2], window, keys.shape[3])
        past, seen = (empty, empty), torch.zeros(len(keys), dtype=torch.long, device=keys.device)
    assert seen is not None
    if length == 1:
        return next_attention(queries, shifted(past, keys, values), seen)
    return _blocks(queries, keys, values, window, past, seen)


def shifted(past: Window, keys: Tensor, values: Tensor) -> Window:
    """Return the window after one more position in each row, `(R, H, 1, d)`: what `moved` does in general."""
    # the oldest of the W slots is W positions back: just outside
    made = [torch.cat([old[:, :, 1:], new], dim=2) for old, new in zip(past, (keys, values), strict=True)]
    return made[0], made[1]


def next_attention(queries: Tensor, held: Window, seen: Tensor) -> Tensor:
    """Return what the newest position of each row reads `(R, H, 1, d)`.

    Args:
        queries: `(R, H, 1, d)`.
        held: the window with that position in it.
        seen: `(R,)` how many positions were before it.
    """
    window = held[0].shape[2]
    slots = torch.arange(1, window + 1, device=queries.device)
    allowed = (slots >= window - seen[:, None].clamp(max=window))[:, None, None]  # (R, 1, 1, W)
    allowed[..., -1] = True
    return functional.scaled_dot_product_attention(queries, *held, attn_mask=allowed)


def _blocks(queries: Tensor, keys: Tensor, values: Tensor, window: int, past: Window, seen: Tensor) -> Tensor:
    #  block of W queries:          | q q q q |
    #  its 2W keys:       | k k k k   k k k k |      the past is the block before the first one
    rows, heads, length, size = queries.shape
    blocks = -(-length // window)
    padding = (0, 0, 0, blocks * window - length)
    asked = functional.pad(queries, padding).view(rows, heads, blocks, window, size)
    held_keys, held_values = (
        torch.cat([old, functional.pad(new, padding)], dim=2).unfold(2, 2 * window, window).transpose(-1, -2)
        for old, new in zip(past, (keys, values), strict=True)
    )  # (R, H, blocks, 2W, d)
    distance = torch.arange(window, device=keys.device)[:, None] + window - torch.arange(2 * window, device=keys.device)
    band = (distance >= 0) & (distance < window)  # (W, 2W)
    allowed = band.expand(rows, 1, blocks, window, 2 * window).clone()
    slots = torch.arange(2 * window, device=keys.device)
    allowed[:, :, 0] &= (slots >= window - seen[:, None].clamp(max=window))[:, None, None]
    read = functional.scaled_dot_product_attention(asked, held_keys, held_values, attn_mask=allowed)
    return read.reshape(rows, heads, blocks * window, size)[:, :, :length]


def moved(past: Window | None, keys: Tensor, values: Tensor, lengths: Tensor, window: int) -> Window:
    """Return the window after the first ``lengths`` `(R,)` of the new positions."""
    slots = lengths[:, None] + torch.arange(window, device=keys.device)  # (R, W) in [window | new]
    made = []
    for old, new in zip(past or (None, None), (keys, values), strict=True):
        before = new.new_zeros(*new.shape[:2], window, new.shape[3]) if old is None else old
        index = slots[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3])
        made.append(torch.cat([before, new], dim=2).gather(2, index))
    return made[0], made[1]


Rotation = tuple[Tensor, Tensor]
"""Cosines and sines `(R or 1, 1, T, d / 2)` of the angles by which vectors are turned."""


def rotation(positions: Tensor, size: int, theta: float) -> Rotation:
    """Return the angles of rotary positions (Su et al., arXiv 2104.09864).

    Args:
        positions: `(R or 1, T)`.
        size: d, channels of a head.
        theta: base of the frequencies.
    """
    half = size // 2
    rates = theta ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions[:, None, :, None].float() * rates  # in fp32, or far positions fall together
    return angles.cos(), angles.sin()


def rotated(vectors: Tensor, turn: Rotation) -> Tensor:
    """Return the vectors `(R, H, T, d)` turned, halves as pairs."""
    cos, sin = (angle.to(vectors.dtype) for angle in turn)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
