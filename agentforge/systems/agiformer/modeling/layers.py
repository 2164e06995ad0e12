"""The blocks of both levels: window attention and MLP, and above the patches a linear attention beside the window."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from agentforge.models.delta_rule import gated_delta_rule
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.window import (
    Rotation,
    Window,
    moved,
    next_attention,
    rotated,
    rotation,
    shifted,
    window_attention,
)


@dataclass
class LayerState:
    """What a layer keeps of the positions before, for each row.

    Attributes:
        window: keys and values of the last ones.
        memory: `(R, H, d, d)` of the linear attention, in fp32.
    """

    window: Window | None = None
    memory: Tensor | None = None


@dataclass
class Span:
    """Which positions of a level a call computes.

    Attributes:
        seen: `(R,)` positions before; None: none in any row.
        lengths: `(R,)` how many new ones each row has; the others of the batch's length are not read.
        keep: return the state behind them.
    """

    seen: Tensor | None
    lengths: Tensor
    keep: bool
    _rotation: Rotation | None = field(default=None, repr=False)
    _is_step: bool | None = field(default=None, repr=False)

    def is_step(self, length: int) -> bool:
        """Tell whether each row has exactly one new position: decoding, which must be quick."""
        if self._is_step is None:
            self._is_step = length == 1 and bool((self.lengths == 1).all())
        return self._is_step

    def rotation(self, length: int, size: int, theta: float) -> Rotation:
        """Return the angles of the new positions for heads of ``size`` channels: all layers of a level turn alike."""
        if self._rotation is None:
            new = torch.arange(length, device=self.lengths.device)[None]
            positions = new if self.seen is None else self.seen[:, None] + new
            self._rotation = rotation(positions, size, theta)
        return self._rotation


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class LinearAttention(nn.Module):
    """The gated delta rule (Yang et al., arXiv 2412.06464): a matrix a head that is corrected towards each new pair.

    The first implementation summed outer products of features, which overflows or forgets nothing; this one forgets
    at a learnt rate and stays bounded, in bf16 too, because it is computed in chunks in fp32.
    """

    def __init__(self, config: AgiformerConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        size = config.hidden_size
        self.q_proj = nn.Linear(size, size, bias=False)
        self.k_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size, bias=False)
        self.gates = nn.Linear(size, 2 * self.heads)  # how strongly to write, how much to keep

    def forward(self, x: Tensor, span: Span, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what is read `(R, T, D)` and the memory behind the row's last position."""
        rows, length, size = x.shape
        queries, keys, values = (
            proj(x).view(rows, length, self.heads, -1).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        write, keep = self.gates(x).float().view(rows, length, 2, self.heads).permute(2, 0, 3, 1)  # (R, H, T) each
        # what lies behind a row's end must neither write nor fade the memory
        real = (torch.arange(length, device=x.device) < span.lengths[:, None])[:, None]
        read, memory = gated_delta_rule(
            functional.normalize(queries.float(), dim=-1),
            functional.normalize(keys.float(), dim=-1),
            values,
            torch.sigmoid(write) * real,
            functional.logsigmoid(keep) * real,
            memory,
        )
        return read.to(x.dtype).transpose(1, 2).reshape(rows, length, size), memory


class Block(GradientCheckpointingLayer):
    """Pre-norm: window attention (and linear attention, summed), then the MLP."""

    def __init__(self, config: AgiformerConfig, window: int, inner: int, *, linear: bool) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads, self.window, self.theta = config.num_attention_heads, window, config.rope_theta
        self.attention_norm = nn.RMSNorm(size, config.rms_norm_eps)
        self.q_proj = nn.Linear(size, size, bias=False)
        self.k_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size, bias=False)
        self.o_proj = nn.Linear(size, size, bias=False)
        self.linear = LinearAttention(config) if linear else None
        if linear:
            # The two branches differ in size by orders of magnitude at first; without norms one drowns the other.
            self.window_norm = nn.RMSNorm(size, config.rms_norm_eps)
            self.linear_norm = nn.RMSNorm(size, config.rms_norm_eps)
        self.mlp_norm = nn.RMSNorm(size, config.rms_norm_eps)
        self.mlp = Mlp(size, inner)

    def forward(self, x: Tensor, span: Span, state: LayerState | None) -> tuple[Tensor, LayerState | None]:
        """Return `(R, T, D)`, and the state behind the span if it is wanted."""
        rows, length, size = x.shape
        normed = self.attention_norm(x)
        queries, keys, values = (
            proj(normed).view(rows, length, self.heads, -1).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        turn = span.rotation(length, size // self.heads, self.theta)
        queries, keys = rotated(queries, turn), rotated(keys, turn)
        past = None if state is None else state.window
        window: Window | None = None
        if past is not None and span.seen is not None and span.is_step(length):
            window = shifted(past, keys, values)
            read = next_attention(queries, window, span.seen)
        else:
            read = window_attention(queries, keys, values, self.window, past, span.seen)
            if span.keep:
                window = moved(past, keys, values, span.lengths, self.window)
        read, memory = read.transpose(1, 2).reshape(rows, length, size), None
        if self.linear is not None:
            more, memory = self.linear(normed, span, None if state is None else state.memory)
            read = self.window_norm(read) + self.linear_norm(more)
        x = x + self.o_proj(read)
        x = x + self.mlp(self.mlp_norm(x))
        return x, LayerState(window, memory) if span.keep else None
