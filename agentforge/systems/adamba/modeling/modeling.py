"""AdambaForCausalLM: FalconH1 with a faster mixer, layers without attention, and what a nanochat base needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
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
from transformers.utils.generic import can_return_tuple

from agentforge.systems.adamba.generation import AdaptiveGeneration
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.dropped_attention import DroppedAttention, DroppedProjection, check_silent
from agentforge.systems.adamba.modeling.embedding_and_head import embed, head
from agentforge.systems.adamba.modeling.mixer import AdambaMixer, fresh_mamba
from agentforge.systems.adamba.modeling.nanochat_layers import (
    FlippedRotaryEmbedding,
    NormedAttention,
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
        self.attends = layer_idx not in (config.dropped_attention or [])
        attention: Any = NormedAttention if config.qk_norm else FalconH1Attention
        if not self.attends:
            attention = DroppedAttention
        self.self_attn = attention(config, layer_idx)
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
        # Mixer and attention read the same normed input and add to the stream side by side. A mixer whose output
        # projection is zero therefore leaves the transformer layer unchanged, bit for bit. That is what a graft
        # relies on.
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

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Open a checkpoint as `PreTrainedModel.from_pretrained` does, once it is sure to mean one model.

        Raises:
            CheckRefused: its config drops attention that its weights do not silence.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        # The prefix "model." is there only if the model has a head.
        buffers = {name[name.find("layers.") :]: value for name, value in model.named_buffers()}
        check_silent(model.config, model.name_or_path, lambda name: buffers.get(name.removeprefix("model.")))
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AdambaMixer):
            for name, value in fresh_mamba(module).items():
                init.copy_(module.get_parameter(name), value)
            # FalconH1 does this at the model, which transformers leaves out where a class is not its own
            init.copy_(module.mup_vector, compute_mup_vector(module.config))
        elif isinstance(module, DroppedProjection):
            for value in module.buffers():
                init.zeros_(value)

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
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.embedding_norm = NanoChatRMSNorm(config.rms_norm_eps) if config.embedding_norm else nn.Identity()
        self.layers = nn.ModuleList(AdambaDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self._attn_implementation = config._attn_implementation
        self.final_layernorm = _norm(config)
        self.rotary_emb = (FlippedRotaryEmbedding if config.rotary_flipped else FalconH1RotaryEmbedding)(config=config)
        self.embedding_multiplier = config.embedding_multiplier
        self.lm_head_multiplier = config.lm_head_multiplier
        self.gradient_checkpointing = False
        self.post_init()
        self.register_load_state_dict_post_hook(_make_derived_buffers)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run FalconH1's forward pass; ``inputs_embeds`` are what the first layer reads, as they are there."""
        if input_ids is not None and inputs_embeds is None:
            inputs_embeds, input_ids = embed(self, input_ids), None
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )


@torch.no_grad()
def _make_derived_buffers(model: AdambaModel, _: Any) -> None:
    """Make what follows from the config and is in no file: after `to_empty` it holds whatever was in memory."""
    for module in model.modules():
        if isinstance(module, AdambaMixer):  # by its own config: layers may have widths of their own
            module.mup_vector.copy_(compute_mup_vector(module.config))
    model._init_weights(model.rotary_emb)


class AdambaForCausalLM(AdaptiveGeneration, AdambaPreTrainedModel, FalconH1ForCausalLM):
    """An Adamba with its head. `from_pretrained` takes any FalconH1 checkpoint as well."""

    def __init__(self, config: AdambaConfig) -> None:
        FalconH1PreTrainedModel.__init__(self, config)
        self.model = AdambaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
        # `to_empty` gives head and embedding a tensor each
        self.register_load_state_dict_post_hook(lambda model, _: model.tie_weights())

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Return logits `(B, T, vocab_size)`, and the loss where there are labels.

        FalconH1's forward pass but for the head, which full depth, exits and narrow widths share. The arguments are
        `FalconH1ForCausalLM.forward`'s; all are named, because `generate` and Trainer look for the names.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = head(self, slice_logits_to_keep(outputs[0], logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
