"""The parts in which nanochat differs from FalconH1, each put in place by its switch in the config.

RMSNorms without weights are transformers' own `NanoChatRMSNorm`; the normed embedding and the soft cap are in
`embedding_and_head`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.falcon_h1.modeling_falcon_h1 import (
    FalconH1Attention,
    FalconH1RotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.models.nanochat.modeling_nanochat import NanoChatRMSNorm

from agentforge.systems.adamba.modeling.configuration import AdambaConfig


class SquaredReluMLP(nn.Module):
    """``down(relu(up(x)) ** 2)``: FalconH1's gated MLP whose gate is `up_proj` itself, under ReLU."""

    def __init__(self, config: AdambaConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        gate, down = config.mlp_multipliers or [1.0, 1.0]
        self.multiplier = gate * down

    def forward(self, x: Tensor) -> Tensor:
        y = self.down_proj(functional.relu(self.up_proj(x)).square())
        return y if self.multiplier == 1 else y * self.multiplier


class NormedAttention(FalconH1Attention):
    """Attention whose queries and keys have root mean square 1 in each head."""

    def __init__(self, config: AdambaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        # a head is as wide in every width, so its epsilon stays the base's
        self.norm = NanoChatRMSNorm(config.base_rms_norm_eps or config.rms_norm_eps)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        query, key, value = (
            projection(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        # nanochat normalises after the rotation, Qwen3 before it. The norm has no weights and a rotation keeps lengths,
        # so both orders agree here up to rounding; this one is the base's.
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        query, key = self.norm(query), self.norm(key) * self.key_multiplier
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.o_proj(output.flatten(2)), weights


class FlippedRotaryEmbedding(FalconH1RotaryEmbedding):
    """Rotation the other way: nanochat's `rotate_half` has the opposite sign."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        # turning by -angle instead of swapping signs in `rotate_half`: the attention kernels stay transformers' own
        cos, sin = super().forward(x, position_ids)
        return cos, -sin
