"""AdambaForCausalLM: FalconH1 with a faster mixer, layers without attention, and what a nanochat base needs."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init
from transformers.models.falcon_h1.modeling_falcon_h1 import (
    FalconH1Attention,
    FalconH1DecoderLayer,
    FalconH1ForCausalLM,
    FalconH1Model,
    FalconH1PreTrainedModel,
    FalconH1RMSNorm,
    FalconH1RotaryEmbedding,
    compute_mup_vector,
)

from agentforge.models.adamba.configuration import AdambaConfig
from agentforge.models.adamba.generation import AdaptiveGeneration
from agentforge.models.adamba.mixer import AdambaMixer, fresh_mamba


class AdambaDecoderLayer(FalconH1DecoderLayer):
    """FalconH1's layer with our mixer."""

    def __init__(self, config: AdambaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.mamba = AdambaMixer(config, layer_idx)


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


class AdambaModel(AdambaPreTrainedModel, FalconH1Model):
    """FalconH1's stack, of our layers."""

    def __init__(self, config: AdambaConfig) -> None:
        # not FalconH1Model's own: it would make its layers first, only for them to be thrown away
        FalconH1PreTrainedModel.__init__(self, config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(AdambaDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self._attn_implementation = config._attn_implementation
        self.final_layernorm = FalconH1RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = FalconH1RotaryEmbedding(config=config)
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
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
