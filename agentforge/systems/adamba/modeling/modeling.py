"""AdambaForCausalLM: FalconH1 with a faster mixer, layers without attention, and what a nanochat base needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.models.falcon_h1.modeling_falcon_h1 import (
    FalconH1Attention,
    FalconH1DecoderLayer,
    FalconH1ForCausalLM,
    FalconH1MLP,
    FalconH1Model,
    FalconH1PreTrainedModel,
    FalconH1RMSNorm,
    FalconH1RotaryEmbedding,
    compute_mup_vector,
)
from transformers.models.nanochat.modeling_nanochat import NanoChatRMSNorm

from agentforge.systems.adamba.generation import AdaptiveGeneration
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.mixer import AdambaMixer, fresh_mamba
from agentforge.systems.adamba.modeling.nanochat_layers import (
    FlippedRotaryEmbedding,
    NormedAttention,
    NormedEmbedding,
    SoftcappedHead,
    SquaredReluMLP,
)


def _norm(config: AdambaConfig) -> Any:
    if config.norm_weights:
        return FalconH1RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
    return NanoChatRMSNorm(config.rms_norm_eps)


class GatedMLP(FalconH1MLP):
    """FalconH1's MLP. Its multipliers are 1 in every graft, and each costs a pass over its largest tensors."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what the MLP writes to the residual stream `(B, T, hidden_size)`, of the same."""
        gate = self.act_fn(_times(self.gate_proj(x), self.gate_multiplier))
        return _times(self.down_proj(self.up_proj(x) * gate), self.down_multiplier)


class AdambaDecoderLayer(FalconH1DecoderLayer):
    """A mixer and, unless it is dropped, attention side by side, then an MLP."""

    def __init__(self, config: AdambaConfig, layer_idx: int) -> None:
        # not FalconH1DecoderLayer's own: it would make its parts first, only for them to be thrown away
        super(FalconH1DecoderLayer, self).__init__()
        self.layer_idx = layer_idx
        mlp: Any = GatedMLP if config.mlp == "gated" else SquaredReluMLP
        self.feed_forward = mlp(config)
        self.mamba = AdambaMixer(config, layer_idx)
        self.self_attn = (NormedAttention if config.qk_norm else FalconH1Attention)(config, layer_idx)
        self.attends = layer_idx not in (config.dropped_attention or [])
        if not self.attends:
            self.self_attn.requires_grad_(False)
        self.attention_in_multiplier = config.attention_in_multiplier
        self.ssm_out_multiplier = config.ssm_out_multiplier
        self.attn_out_multiplier = config.attention_out_multiplier
        self.input_layernorm = _norm(config)
        self.pre_ff_layernorm = _norm(config)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        mamba_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor]:
        """Return the residual stream `(B, T, hidden_size)` after the layer, in a tuple as FalconH1 does.

        The arguments are `FalconH1DecoderLayer.forward`'s.
        """
        normed = self.input_layernorm(hidden_states)
        written = self.mamba(normed, cache_params=past_key_values, attention_mask=mamba_attention_mask, **kwargs)
        written = _times(written, self.ssm_out_multiplier)
        if self.attends:
            attended, _ = self.self_attn(
                hidden_states=_times(normed, self.attention_in_multiplier),
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
            written = written + _times(attended, self.attn_out_multiplier)
        elif past_key_values is not None:
            # the cache counts positions by the keys that it holds; one number a token keeps the count
            counted = normed[:, None, :, :1]
            past_key_values.update(counted, counted, self.layer_idx)
        hidden_states = hidden_states + written
        return (hidden_states + self.feed_forward(self.pre_ff_layernorm(hidden_states)),)


def _times(tensor: Tensor, multiplier: float | None) -> Tensor:
    return tensor if multiplier is None or multiplier == 1 else tensor * multiplier


class AdambaPreTrainedModel(FalconH1PreTrainedModel):
    """How an Adamba is initialised and looked into."""

    config: AdambaConfig
    config_class = AdambaConfig
    _no_split_modules = ["AdambaDecoderLayer"]  # noqa: RUF012
    _can_record_outputs = {"hidden_states": AdambaDecoderLayer, "attentions": FalconH1Attention}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AdambaMixer):
            for name, value in fresh_mamba(module).items():
                init.copy_(module.get_parameter(name), value)
            # FalconH1 does this at the model, which transformers leaves out where a class is not its own
            init.copy_(module.mup_vector, compute_mup_vector(self.config))

    def set_use_kernels(self, use_kernels: bool, *args: Any, **kwargs: Any) -> None:
        super().set_use_kernels(use_kernels, *args, **kwargs)
        for module in self.modules():
            if isinstance(module, AdambaMixer):
                module.hub_kernels = use_kernels


class AdambaModel(AdambaPreTrainedModel, FalconH1Model):
    """FalconH1's stack, of our layers."""

    def __init__(self, config: AdambaConfig) -> None:
        FalconH1PreTrainedModel.__init__(self, config)  # for the same reason as in the layer
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = (
            NormedEmbedding(config)
            if config.embedding_norm
            else nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        )
        self.layers = nn.ModuleList(AdambaDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self._attn_implementation = config._attn_implementation
        self.final_layernorm = _norm(config)
        self.rotary_emb = (FlippedRotaryEmbedding if config.rotary_flipped else FalconH1RotaryEmbedding)(config=config)
        self.embedding_multiplier = config.embedding_multiplier
        self.lm_head_multiplier = config.lm_head_multiplier
        self.gradient_checkpointing = False
        self.post_init()


class AdambaForCausalLM(AdaptiveGeneration, AdambaPreTrainedModel, FalconH1ForCausalLM):
    """An Adamba with its head. `from_pretrained` takes any FalconH1 checkpoint as well."""

    def __init__(self, config: AdambaConfig) -> None:
        FalconH1PreTrainedModel.__init__(self, config)
        self.model = AdambaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = (
            nn.Linear(config.hidden_size, config.vocab_size, bias=False)
            if config.logit_softcap is None
            else SoftcappedHead(config)
        )
        self.post_init()
