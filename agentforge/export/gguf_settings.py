"""Are the settings inside a GGUF the checkpoint's? Sizes, context, rope, eps and the rest of its config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agentforge.errors import CheckRefused

# GGUF's key (below the architecture's name) to the names that config.json has for it.
SETTINGS: dict[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings", "n_positions", "n_ctx"),
    "embedding_length": ("hidden_size", "n_embd"),
    "block_count": ("num_hidden_layers", "n_layer"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "layer_norm_epsilon", "norm_eps"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "expert_count": ("num_experts", "num_local_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok", "top_k_experts"),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
}
# Multi-head latent attention is written as one key head of another width.
LATENT = ("attention.head_count_kv", "attention.key_length", "attention.value_length", "rope.dimension_count")
REQUIRED = ("context_length", "embedding_length", "block_count")
LLAMA_ROPE_BASE = 10_000.0  # what llama.cpp takes if the file names no base
OF_THE_FILE = ("general.file_type", "general.quantization_version")


def check_settings(fields: Mapping[str, Any], config: Mapping[str, Any], vocabulary: int) -> None:
    """Refuse a GGUF whose settings differ from config.json's.

    Args:
        fields: the file's metadata.
        config: the checkpoint's, as converted.
        vocabulary: number of rows of its embedding.

    Raises:
        CheckRefused: with the first setting that differs.
    """
    architecture = fields.get("general.architecture")
    expected = {key: _first(config, names) for key, names in SETTINGS.items()} | _rope(config)
    if config.get("kv_lora_rank"):
        expected = {key: wanted for key, wanted in expected.items() if key not in LATENT}
    for key, wanted in expected.items():
        found = fields.get(f"{architecture}.{key}", LLAMA_ROPE_BASE if key == "rope.freq_base" else None)
        if wanted is None and key.startswith("rope.scaling") and found is not None:
            raise _refused(f"{architecture}.{key}", found, wanted)
        if wanted is None or (found is None and key not in REQUIRED) or isinstance(found, list):
            continue
        if found is None or not _equal(found, wanted):
            raise _refused(f"{architecture}.{key}", found, wanted)
    if (tokens := len(fields.get("tokenizer.ggml.tokens") or [])) != vocabulary:
        raise _refused("as many tokens as", tokens, vocabulary)


def check_general(fields: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a GGUF that calls itself something else: name, version, licence, base, type.

    Raises:
        CheckRefused: with the first entry that differs.
    """
    for key, wanted in expected.items():
        if fields.get(key) != wanted:
            raise _refused(key, fields.get(key), wanted)


def check_carried(fields: Mapping[str, Any], conversion: Mapping[str, Any]) -> None:
    """Refuse a quantised GGUF with another entry than the conversion that it was made from.

    Raises:
        CheckRefused: with the first entry that differs.
    """
    for key in sorted({*fields, *conversion} - {*OF_THE_FILE}):
        if key.startswith("GGUF."):
            continue  # the reader's own: version and counts
        if fields.get(key) != conversion.get(key):
            found, wanted = _short(fields.get(key)), _short(conversion.get(key))
            raise CheckRefused(f"the GGUF has {key} {found}, but its conversion {wanted}; it was not published")


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get("full_attention", rope)
    heads, share = config.get("head_dim"), rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if heads is None and config.get("num_attention_heads") and config.get("hidden_size"):
        heads = config["hidden_size"] // config["num_attention_heads"]
    other_share = any("rotary" in name and name != "partial_rotary_factor" for name in config)  # older configs' names
    return {
        "rope.freq_base": rope.get("rope_theta", config.get("rope_theta")),
        "rope.dimension_count": None if heads is None or other_share else int(heads * share),
        "rope.scaling.factor": rope.get("factor"),
    }


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if isinstance(config.get(name), int | float)), None)


def _equal(found: Any, wanted: Any) -> bool:
    # floats are stored in 32 bits
    return math.isclose(found, wanted, rel_tol=1e-6) if isinstance(wanted, int | float) else found == wanted


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refused(key: str, found: Any, wanted: Any) -> CheckRefused:
    return CheckRefused(
        f"the GGUF has {key} {_short(found)}, but the checkpoint {_short(wanted)}; it was not published"
    )
