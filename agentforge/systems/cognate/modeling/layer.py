"""A layer of Titans' "memory as a gate" (Behrouz et al., arXiv 2501.00663): attention near, memory far, a gate between.

a = norm(attention(x)), over a sliding window and the persistent tokens
m = norm(memory(x)), over everything before
x = x + g * a + (1 - g) * m, with g = sigmoid(low-rank map of a and m), for each channel
x = x + mlp(x)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from agentforge.systems.cognate.modeling.cache import Slot
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.context import Context
from agentforge.systems.cognate.modeling.neural_memory import NeuralMemory
from agentforge.systems.cognate.modeling.readings import Readings
from agentforge.systems.cognate.modeling.run import Run


class Attention(nn.Module):
    """Softmax attention over a sliding window, with persistent tokens that every query sees."""

    def __init__(self, config: CognateConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        width = self.heads * self.head_dim
        # Three matrices and not one: Muon orthogonalises each by itself.
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        self.qk_norm, self.eps, self.dropout = config.qk_norm, config.rms_norm_eps, float(config.attention_dropout)

    def forward(self, x: Tensor, persistent: Tensor, run: Run) -> Tensor:
        """Return `(B, T, hidden_size)` of `x` `(B, T, hidden_size)` and persistent tokens `(P, hidden_size)`.

        If only N tokens are active, `x` and what is returned are `(1, N, hidden_size)`.
        """
        context, active = run.context, run.active
        queries = rotate(self._heads(self.q_proj(x), normed=True), context)
        keys = rotate(self._heads(self.k_proj(x), normed=True), context)
        values = self._heads(self.v_proj(x), normed=False)
        keys, values = run.remember(x, keys, values)
        if active is not None:
            if not len(active):
                return x
            queries, keys, values = active.lay_out(queries), active.of_rows(keys), active.of_rows(values)
        if len(persistent):
            first = self._persistent(persistent, run.slot)
            keys, values = (
                torch.cat([one.expand(len(queries), -1, -1, -1), other], 2)
                for one, other in zip(first, (keys, values), strict=True)
            )
        attended = self._attend(queries, keys, values, context.mask)
        return self.o_proj(attended if active is None else active.collect(attended))

    def _persistent(self, tokens: Tensor, slot: Slot | None) -> tuple[Tensor, Tensor]:
        """Return keys and values `(1, heads, P, head_dim)` of persistent tokens `(P, hidden_size)`."""
        if slot is not None and slot.persistent is not None:
            return slot.persistent
        # They have no place in the text, so they are not rotated.
        found = (
            self._heads(self.k_proj(tokens)[None], normed=True),
            self._heads(self.v_proj(tokens)[None], normed=False),
        )
        if slot is not None:  # there are more of them than tokens in a step of decoding
            slot.persistent = found
        return found

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Return the heads' outputs side by side, `(B, T, heads * head_dim)`."""
        dropout = self.dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
        return out.transpose(1, 2).reshape(len(queries), -1, self.heads * self.head_dim)

    def _heads(self, x: Tensor, *, normed: bool) -> Tensor:
        heads = x.view(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2)
        return rms_norm(heads, self.eps) if normed and self.qk_norm else heads


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: CognateConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class MemoryGate(nn.Module):
    """Weighs attention against memory, for each token and channel."""

    def __init__(self, config: CognateConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.memory_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.down_proj = nn.Linear(2 * width, config.gate_rank, bias=False)
        self.up_proj = nn.Linear(config.gate_rank, width)

    def forward(self, attended: Tensor, remembered: Tensor) -> tuple[Tensor, Tensor]:
        """Return what goes to the residual stream `(B, T, hidden_size)`, and the memory's share of it `(B, T)`."""
        a, m = self.attention_norm(attended), self.memory_norm(remembered)
        gate = torch.sigmoid(self.up_proj(self.down_proj(torch.cat([a, m], -1))))
        return torch.lerp(m, a, gate), 1 - gate.float().mean(-1)


class CognateLayer(GradientCheckpointingLayer):
    """Attention and memory side by side, and an MLP."""

    def __init__(self, config: CognateConfig, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.memory = NeuralMemory(config) if config.has_memory(index) else None
        self.gate = MemoryGate(config) if config.has_memory(index) else None
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, persistent: Tensor, run: Run) -> tuple[Tensor | None, ...]:
        """Return the residual stream `(B, T, hidden_size)` behind the layer, then the fields of its `Readings`.

        If only N tokens are active, the stream is `(1, N, hidden_size)`, before and behind the layer.
        """
        normed = self.input_layernorm(x)
        mixed = self.self_attn(normed, self.input_layernorm(persistent), run)
        readings = Readings()
        if self.memory is not None and self.gate is not None:
            remembered, watched = run.through_memory(self.memory, normed)
            mixed, share = self.gate(mixed, remembered)
            readings = Readings(share, watched["surprise"], watched["decay"])
        x = x + mixed
        # Flat, because checkpointing keeps the gradient of tensors in a tuple, and of nothing else.
        return x + self.mlp(self.post_attention_layernorm(x)), *readings


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """Return `x` with a root mean square of 1 in its last dimension, without weights."""
    return functional.rms_norm(x, x.shape[-1:], eps=eps)


def rotate(x: Tensor, context: Context) -> Tensor:
    """Return queries or keys `(B, H, T, head_dim)` turned by their positions, half against half."""
    first, second = x.chunk(2, -1)
    cos, sin = context.cos, context.sin
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
