"""The memory of a layer: Titans' linear memory (Behrouz et al., arXiv 2501.00663), one matrix in each head.

    q, k, v = silu(convolution(projection(x))), each with a convolution of its own; q and k have length 1
    decay, write, third = gates of x
    out = projection(third * what q reads behind the token's own write)

The convolutions let a key carry what stands before it, so that "the value after this key" can be stored at all. One
that q, k and v share cannot tell the roles apart, and fails to learn recall in 1,500 steps where three need 500.

The state is not in the module. It is passed in and out, one row for each sequence, so nothing leaks from a batch into
the next, beams can be reordered, and a stream can be read in pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

from agentforge.models.delta_rule import Writes, run_delta_rule
from agentforge.systems.cognate.modeling.short_convolution import short_convolution

if TYPE_CHECKING:
    from agentforge.systems.cognate.modeling.configuration import CognateConfig

CHUNK = 64


@dataclass
class MemoryState:
    """What a memory knows behind the tokens it has read, row by row.

    Attributes:
        tail: `(B, kernel - 1, 3 heads * dim)`, last inputs of the convolutions of q, k and v; zeros where the document
            has fewer tokens.
        matrix: `(B, heads, dim, dim)`, keys to values, in fp32 at least; with momentum `(B, heads, 2 dim, dim)`, the
            momentum below.
    """

    tail: Tensor
    matrix: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> MemoryState:
        """Return the state with every tensor as `change` makes it; rows are the first dimension."""
        return MemoryState(change(self.tail), change(self.matrix))

    def index_select(self, rows: Tensor) -> MemoryState:
        """Return these rows in this order, for beams."""
        return self.map(lambda x: x.index_select(0, rows.to(x.device)))

    def detach(self) -> MemoryState:
        """Return the state without its graph: what follows learns from it, but not through it."""
        return self.map(Tensor.detach)

    def effective_rank(self) -> Tensor:
        """Return `(B,)`, how many independent associations are stored, mean over heads (Roy and Vetterli, 2007).

        It is the exponential of the entropy of the normalised singular values: 1 for a matrix of rank one, 0 for an
        empty one. It costs a singular value decomposition for each head.
        """
        memory = self.matrix[:, :, : self.matrix.shape[-1]].detach().float()
        values = torch.linalg.svdvals(memory)
        total = values.sum(-1, keepdim=True)
        share = values / total.clamp(min=torch.finfo(values.dtype).tiny)
        return (torch.special.entr(share).sum(-1).exp() * (total[..., 0] > 0)).mean(-1)


class NeuralMemory(nn.Module):
    """Writes every token's value under its key, corrected by what the memory already returns for it."""

    def __init__(self, config: CognateConfig) -> None:
        super().__init__()
        self.heads, self.dim, self.momentum = config.memory_heads, config.memory_head_dim, config.memory_momentum
        self.kernel = config.memory_conv_kernel
        width = self.heads * self.dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        # Only their weights are used. As `nn.Conv1d` they are convolutions to optimisers and to LoRA as well.
        self.q_conv, self.k_conv, self.v_conv = (
            nn.Conv1d(width, width, self.kernel, groups=width, bias=False) for _ in range(3)
        )
        # Of each head: decay, write strength, and momentum or, without momentum, the scale of what is read.
        self.gates = nn.Linear(config.hidden_size, 3 * self.heads)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start convolutions and gates so that the memory works before it has learned anything.

        `CognatePreTrainedModel` calls it too: transformers' own functions pass over weights that are already loaded.
        """
        for convolution in (self.q_conv, self.k_conv, self.v_conv):
            init.normal_(convolution.weight, std=self.kernel**-0.5)
        # Heads start with a decay of 0.993 to 0.999: half a memory in 100 to 760 tokens. They write half of an error.
        bias = torch.zeros(3, self.heads)
        bias[0] = torch.linspace(5, 7, self.heads)
        init.copy_(self.gates.bias, bias.flatten())

    def forward(
        self,
        x: Tensor,
        state: MemoryState | None = None,
        starts: Tensor | None = None,
        padding: Tensor | None = None,
        *,
        watch: bool = True,
    ) -> tuple[Tensor, MemoryState, dict[str, Tensor]]:
        """Return what the tokens read, the state behind them, and readings.

        Args:
            x: `(B, T, hidden_size)`.
            state: behind the tokens before; None: the row begins here.
            starts: `(B, T)` bool, a document begins here, and nothing from before is seen any more; None: nowhere.
            padding: `(B, T)` bool, on any side or between: these tokens write nothing and read zeros; None: no padding.
            watch: also return the readings.

        Returns:
            out `(B, T, hidden_size)`; the state; and `surprise` (length of the error, before the write), `decay` and
            `write` (strength), `(B, T)` each, mean over heads, detached. Readings of padding mean nothing.
        """
        if state is None:
            state = self._empty(x)
        order = None
        if padding is not None:
            starts = None if starts is None else starts & ~padding
            x = x.masked_fill(padding[..., None], 0)
            if x.shape[1] > 1:
                # Real tokens move to the front, in their order: so the convolutions see them side by side, and a row
                # computes the same wherever it was padded.
                order = padding.to(torch.uint8).argsort(dim=1, stable=True)
                x, padding = _take(x, order), padding.gather(1, order)
                starts = None if starts is None else starts.gather(1, order)
        out, state, readings = self._remember(x, state, starts, padding, watch)
        if padding is not None:
            out = out.masked_fill(padding[..., None], 0)
        if order is not None:
            back = order.argsort(1)
            out, readings = _take(out, back), {name: r.gather(1, back) for name, r in readings.items()}
        return out, state, readings

    def _remember(
        self, x: Tensor, state: MemoryState, starts: Tensor | None, padding: Tensor | None, watch: bool
    ) -> tuple[Tensor, MemoryState, dict[str, Tensor]]:
        """`forward` for rows whose padding, if any, is on the right."""
        projected = torch.cat([self.q_proj(x), self.k_proj(x), self.v_proj(x)], -1)
        taps = torch.cat([self.q_conv.weight, self.k_conv.weight, self.v_conv.weight])[:, 0].to(projected.dtype)
        mixed, inputs = short_convolution(projected, taps, state.tail.to(projected.dtype), starts)
        # (B, H, T, dim) each, in fp32 from here on. One copy here saves one in every product of the chunks.
        mixed = _exact(functional.silu(mixed)).unflatten(-1, (3, self.heads, self.dim)).permute(2, 0, 3, 1, 4)
        q, k, v = mixed.contiguous().unbind()
        decay, write, third = _exact(self.gates(x)).transpose(1, 2).split(self.heads, 1)  # (B, H, T) each
        log_decay, beta = functional.logsigmoid(decay), write.sigmoid()
        log_momentum = functional.logsigmoid(third) if self.momentum else None
        writes = Writes(_unit(q), _unit(k), v, beta, log_decay, log_momentum, padding)
        out, errors, matrix = run_delta_rule(writes, state.matrix, starts=starts, chunk_size=CHUNK)
        if not self.momentum:
            out = out * (2 * third.sigmoid())[..., None]
        out = self.o_proj(out.transpose(1, 2).flatten(2).to(x.dtype))
        readings = {}
        if watch:
            readings = {
                "surprise": errors.detach().norm(dim=-1),
                "decay": log_decay.detach().exp(),
                "write": beta.detach(),
            }
            readings = {name: reading.mean(1) for name, reading in readings.items()}
        return out, MemoryState(self._tail(inputs, starts, padding), matrix), readings

    def _tail(self, inputs: Tensor, starts: Tensor | None, padding: Tensor | None) -> Tensor:
        """Return the last `kernel - 1` inputs of the last document; padding is on the right."""
        margin = self.kernel - 1
        if padding is None:
            tail = inputs[:, -margin:] if margin else inputs[:, :0]
        else:
            real = (~padding).sum(1)
            tail = _take(inputs, real[:, None] + torch.arange(margin, device=inputs.device))
        if starts is None:
            return tail
        # The tail's entries are tokens n - margin ... n - 1; those before the last start are of another document.
        columns = torch.arange(starts.shape[1], device=starts.device)
        begun = torch.where(starts, columns, -margin).amax(1, keepdim=True)
        ends = (~padding).sum(1, keepdim=True) if padding is not None else starts.shape[1]
        place = ends - margin + torch.arange(margin, device=starts.device)
        return tail.masked_fill((place < begun)[..., None], 0)

    def _empty(self, x: Tensor) -> MemoryState:
        rows, height = len(x), 2 * self.dim if self.momentum else self.dim
        tail = x.new_zeros(rows, self.kernel - 1, 3 * self.heads * self.dim)
        return MemoryState(tail, x.new_zeros(rows, self.heads, height, self.dim, dtype=torch.float32))


def _exact(x: Tensor) -> Tensor:
    """Return `x` in fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _unit(x: Tensor) -> Tensor:
    """Return vectors of length 1; the square of 1e-3 keeps the gradient of a zero vector finite."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _take(x: Tensor, columns: Tensor) -> Tensor:
    """Return `(B, T', channels)`: of every row of `x` `(B, T, channels)` these columns `(B, T')`."""
    return x.gather(1, columns[..., None].expand(-1, -1, x.shape[-1]))
