"""A stand-in for the memory, token by token: the same interface, slow. Helper [memory] replaces this file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass
class MemoryState:
    tails: tuple[Tensor, Tensor, Tensor]  # (B, kernel - 1, heads * dim) of q, k, v
    matrix: Tensor  # (B, H, dk, dv)

    def map(self, change: Callable[[Tensor], Tensor]) -> MemoryState:
        q, k, v = map(change, self.tails)
        return MemoryState((q, k, v), change(self.matrix))

    def index_select(self, rows: Tensor) -> MemoryState:
        return self.map(lambda t: t.index_select(0, rows.to(t.device)))

    def detach(self) -> MemoryState:
        return self.map(Tensor.detach)


class NeuralMemory(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.heads, self.dim, self.kernel = config.memory_heads, config.memory_head_dim, config.memory_conv_kernel
        width = self.heads * self.dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.convs = nn.ParameterList(nn.Parameter(torch.randn(width, self.kernel) * 0.5) for _ in range(3))
        self.write = nn.Linear(config.hidden_size, self.heads)
        self.decay = nn.Linear(config.hidden_size, self.heads)
        self.read = nn.Linear(config.hidden_size, self.heads)

    def forward(
        self, x: Tensor, state: MemoryState | None = None, starts: Tensor | None = None, padding: Tensor | None = None
    ) -> tuple[Tensor, MemoryState, dict[str, Tensor]]:
        rows, length, _ = x.shape
        width = self.heads * self.dim
        if state is None:
            empty = x.new_zeros(rows, self.kernel - 1, width)
            state = MemoryState((empty, empty, empty), x.new_zeros(rows, self.heads, self.dim, self.dim))
        streams = [self.q_proj(x), self.k_proj(x), self.v_proj(x)]
        beta, decay = torch.sigmoid(self.write(x)), torch.sigmoid(self.decay(x) + 5)
        scale = 2 * torch.sigmoid(self.read(x))
        tails, matrix, outs, surprises = list(state.tails), state.matrix, [], []
        for t in range(length):
            real = torch.ones(rows, dtype=torch.bool, device=x.device) if padding is None else ~padding[:, t]
            if starts is not None:
                keep = (~starts[:, t]).to(x.dtype)
                tails = [tail * keep[:, None, None] for tail in tails]
                matrix = matrix * keep[:, None, None, None]
            windows = [torch.cat([tail, s[:, t : t + 1]], 1) for tail, s in zip(tails, streams, strict=True)]
            mixed = [functional.silu((w * c.T).sum(1)) for w, c in zip(windows, self.convs, strict=True)]
            q, k, v = (m.view(rows, self.heads, self.dim) for m in mixed)
            q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
            old = matrix * decay[:, t, :, None, None]
            error = v - (k.unsqueeze(-2) @ old).squeeze(-2)
            new = old + (beta[:, t, :, None] * k).unsqueeze(-1) * error.unsqueeze(-2)
            outs.append(((q.unsqueeze(-2) @ new).squeeze(-2) * scale[:, t, :, None]).flatten(1))
            surprises.append(error.norm(dim=-1).mean(-1))
            matrix = torch.where(real[:, None, None, None], new, matrix)
            tails = [torch.where(real[:, None, None], w[:, 1:], tl) for w, tl in zip(windows, tails, strict=True)]
        stats = {"surprise": torch.stack(surprises, 1).detach(), "decay": decay.mean(-1).detach()}
        return self.o_proj(torch.stack(outs, 1)), MemoryState((tails[0], tails[1], tails[2]), matrix), stats
