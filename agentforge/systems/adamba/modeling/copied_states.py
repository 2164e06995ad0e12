"""The states that a layer would have kept, had it read a given hidden state: without queries, outputs or MLP."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.models.falcon_h1.modeling_falcon_h1 import apply_rotary_pos_emb

from agentforge.systems.adamba.modeling.nanochat_layers import NormedAttention


def copy_state(layer: Any, hidden: Tensor, cache: Cache, rotary: tuple[Tensor, Tensor]) -> None:
    """Update a layer's part of the cache for one token.

    Args:
        layer: of a FalconH1 or Adamba.
        hidden: `(B, 1, D)` that the layer is said to have read.
        cache: has the state of the tokens before.
        rotary: cosine and sine at the token's position.
    """
    normed = layer.input_layernorm(hidden)
    if getattr(layer, "attends", True):
        keep_keys(layer.self_attn, normed * layer.attention_in_multiplier, cache, rotary)
    else:
        counted = normed[:, None, :, :1]  # as the layer itself keeps the cache's count
        cache.update(counted, counted, layer.self_attn.layer_idx)
    keep_mamba(layer.mamba, normed, cache)


def keep_keys(attention: Any, hidden: Tensor, cache: Cache, rotary: tuple[Tensor, Tensor]) -> None:
    """Append one key and value to the cache."""
    shape = (*hidden.shape[:-1], -1, attention.head_dim)
    keys = attention.k_proj(hidden).view(shape).transpose(1, 2)
    values = attention.v_proj(hidden).view(shape).transpose(1, 2)
    _, keys = apply_rotary_pos_emb(keys, keys, *rotary)
    if isinstance(attention, NormedAttention):
        keys = attention.norm(keys)
    cache.update(keys * attention.key_multiplier, values, attention.layer_idx)


def keep_mamba(mixer: Any, hidden: Tensor, cache: Cache) -> None:
    """Move the convolution's and the recurrence's state on by one token.

    h = exp(dt A) h + dt B x: Dao and Gu 2024, Mamba-2, arXiv 2405.21060.
    """
    # The mixer's update for one token, minus everything that only its output needs: the gate, C and D.
    batch = hidden.shape[0]
    projected = mixer.in_proj(hidden * mixer.ssm_in_multiplier) * mixer.mup_vector
    _, read, dt = projected[:, 0].split([mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], dim=-1)
    window = cache.update_conv_state(read[..., None], mixer.layer_idx, conv_kernel_size=mixer.conv_kernel_size)
    window = window[..., -mixer.conv_kernel_size :]
    convolved = (window * mixer.conv1d.weight[:, 0]).sum(-1)
    if mixer.conv1d.bias is not None:
        convolved = convolved + mixer.conv1d.bias
    states = mixer.n_groups * mixer.ssm_state_size
    x, b, _ = mixer.act(convolved).split([mixer.intermediate_size, states, states], dim=-1)
    heads = mixer.num_heads // mixer.n_groups
    b = b.view(batch, mixer.n_groups, 1, -1).expand(-1, -1, heads, -1).reshape(batch, mixer.num_heads, 1, -1)
    dt = torch.nn.functional.softplus(dt.float() + mixer.dt_bias.float())
    dt = dt.clamp(*mixer.time_step_limit)[..., None, None]
    decay = torch.exp(dt * -torch.exp(mixer.A_log.float())[:, None, None])
    state = cache.layers[mixer.layer_idx].recurrent_states[0]
    added = dt * b * x.view(batch, mixer.num_heads, mixer.head_dim, 1)
    cache.update_recurrent_state((state * decay + added).to(state.dtype), mixer.layer_idx)
