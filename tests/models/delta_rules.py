"""The memory written out token by token, as the papers have it, and inputs for it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional

from agentforge.models.delta_rule import Writes


def token_by_token(
    writes: Writes, state: Tensor, starts: Tensor | None = None, *, leaky: bool = False
) -> tuple[Tensor, Tensor]:
    """Return outputs `(B, H, T, dv)` and the last state, by the equations of Titans (12) to (14) on a faded memory.

    `leaky` reads with the memory behind the *next* token: tests of causality must fail on it.
    """
    memory, *rest = state.chunk(writes.parts, 2)
    momentum = rest[0] if rest else torch.zeros_like(memory)
    memories = []
    for t in range(writes.k.shape[2]):
        if starts is not None:
            forget = starts[:, t, None, None, None]
            memory, momentum = memory.masked_fill(forget, 0), momentum.masked_fill(forget, 0)
        key, value, beta, log_decay = (
            x[:, :, t] for x in (writes.k, writes.v, writes.beta[..., None, None], writes.log_decay[..., None, None])
        )
        faded = log_decay.exp() * memory
        gradient = key[..., :, None] * (torch.einsum("bhk,bhkv->bhv", key, faded) - value)[..., None, :]
        eta = 0.0 if writes.log_momentum is None else writes.log_momentum[:, :, t, None, None].exp()
        step = eta * momentum - beta * gradient
        written = faded + step
        if writes.padding is not None:
            pad = writes.padding[:, t, None, None, None]
            step, written = torch.where(pad, momentum, step), torch.where(pad, memory, written)
        memory, momentum = written, step
        memories.append(memory)
    seen = memories[1:] + memories[-1:] if leaky else memories
    out = torch.stack([torch.einsum("bhk,bhkv->bhv", writes.q[:, :, t], m) for t, m in enumerate(seen)], 2)
    return out, torch.cat([memory, momentum], 2) if rest else memory


@dataclass
class Case:
    writes: Writes
    state: Tensor
    starts: Tensor | None


def random_case(
    length: int,
    *,
    momentum: bool = False,
    padded: bool = False,
    starts: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Return 2 rows and 3 heads with keys of 6 and values of 5 numbers."""
    rows, heads, dim, values = 2, 3, 6, 5
    rng = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=dtype)

    q, k = (functional.normalize(normal(rows, heads, length, dim), dim=-1) for _ in range(2))
    v = normal(rows, heads, length, values)
    gates = [normal(rows, heads, length) for _ in range(3)]
    padding = torch.rand(rows, length, generator=rng) < 0.3 if padded else None
    log_momentum = functional.logsigmoid(gates[2]) if momentum else None
    writes = Writes(q, k, v, gates[0].sigmoid(), functional.logsigmoid(gates[1] + 2), log_momentum, padding)
    state = normal(rows, heads, writes.parts * dim, values)
    begun = torch.rand(rows, length, generator=rng) < 0.15 if starts else None
    return Case(writes, state, begun)


def part(writes: Writes, first: int, last: int) -> Writes:
    """Return the tokens from `first` to before `last`."""
    cut = {}
    for field in fields(writes):
        x = getattr(writes, field.name)
        cut[field.name] = x if x is None else x[:, first:last] if field.name == "padding" else x[:, :, first:last]
    return replace(writes, **cut)
