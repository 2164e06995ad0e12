"""Values of a base's config that do not go together, of whatever architecture: they fail in the first forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentforge.errors import did_you_mean
from agentforge.recipe.arguments import show_value

# `rope_type` to the keys that transformers cannot do without; a test compares.
ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "proportional": (),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}

# Entries of `layer_types`; a test compares.
LAYER_TYPES = (
    *("full_attention", "sliding_attention", "chunked_attention", "window_attention", "indexed_attention"),
    *("compressed_sparse_attention", "heavily_compressed_attention", "minimax_m3_sparse", "conv", "moe", "hybrid"),
    *("hybrid_sliding", "reference_sliding_attention", "linear_attention", "sparse", "dense", "mamba", "attention"),
    *("deepseek_sparse_attention", "qwen_sparse_attention"),
)


def value_problems(config: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield a sentence for each.

    Args:
        config: of the base.
        where: what stands before a field's name: ``model.config.``, or the base.
    """
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    heads, groups = text.get("num_attention_heads"), text.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(groups, int) and groups and heads % groups:
        yield f"{where}num_attention_heads is {heads}; it must be a multiple of num_key_value_heads, {groups}"
    dim = text.get("head_dim")
    if isinstance(dim, int) and dim % 2 and _is_rotary(text):
        yield f"{where}head_dim is {dim}; it must be even, because rotary positions turn pairs of channels"
    vocabulary, pad = text.get("vocab_size"), text.get("pad_token_id")
    if isinstance(vocabulary, int) and isinstance(pad, int) and not -1 <= pad < vocabulary:
        yield f"{where}pad_token_id is {pad}; it must be one of the {vocabulary} tokens"
    kinds = text.get("layer_types")
    for kind in dict.fromkeys(kinds) if isinstance(kinds, list) else ():
        if kind not in LAYER_TYPES:
            hint = did_you_mean(str(kind), LAYER_TYPES) or f"; it may be {', '.join(LAYER_TYPES)}"
            yield f"{where}layer_types has {show_value(kind)}, which is no kind of layer{hint}"
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(given := text.get(name), dict) and not any(isinstance(v, dict) for v in given.values()):
            yield from (f"{where}{name} {problem}" for problem in _rope(given))


def _is_rotary(text: Mapping[str, Any]) -> bool:
    return "n_positions" not in text and text.get("model_type") not in ("opt", "gpt2", "bloom")


def _rope(given: Mapping[str, Any]) -> Iterator[str]:
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ROPE_KEYS:
        if not isinstance(kind, str) or "mrope" not in kind:
            yield f"has rope_type {show_value(kind)}, which is none{did_you_mean(str(kind), [*ROPE_KEYS])}"
        return
    if lacking := [key for key in ROPE_KEYS[kind] if key not in given]:
        yield f"lacks {', '.join(lacking)}, which rope_type {kind} needs"
