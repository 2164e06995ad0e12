"""A two-layer random model of each family's own config, with its template and markers: small enough for seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.data.dialects.families import base_tokenizer

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS: dict[str, dict[str, Any]] = {
    "Llama 3.1": {"model_type": "llama"},
    "Qwen2.5": {"model_type": "qwen2", "tie_word_embeddings": True},
    "Qwen3": {"model_type": "qwen3"},
    "Qwen3 Instruct 2507": {"model_type": "qwen3_moe", **EXPERTS, "num_experts": 4, "norm_topk_prob": True},
    "Gemma 1 and 2": {"model_type": "gemma2", "query_pre_attn_scalar": 16, "sliding_window": 512},
    "Gemma 3": {"model_type": "gemma3_text", "query_pre_attn_scalar": 16, "sliding_window": 512},
    "Mistral Nemo": {"model_type": "mistral"},
    "Phi-3": {"model_type": "phi3", "pad_token_id": 0},
    "SmolLM3": {"model_type": "smollm3"},
    "gpt-oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 128,
        "max_position_embeddings": 131072,
    },
    "GLM-4 MoE": {
        "model_type": "glm4_moe",
        **EXPERTS,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    "DeepSeek R1 distills": {"model_type": "qwen2"},
    "LFM2": {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "Granite 4": {"model_type": "granite"},
}


def save_model(name: str, directory: Path) -> Path:
    """Save a family's small model with its tokenizer, as its maker would publish it."""
    tokenizer = base_tokenizer(name)
    fields = COMMON | {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    fields |= MODELS[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
