"""Count parameters from a shape, exactly, without making the model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from agentforge.planning.shapes import Shape

# peft's own choice for these architectures if `target_modules` is left out
DEFAULT_TARGETS = ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters.

    Attributes:
        embedding: the input embedding; looked up, not multiplied, unless it is also the head.
        head: an untied output head.
        layers: the decoder layers together.
        final_norm: the last RMSNorm.
    """

    embedding: int
    head: int
    layers: int
    final_norm: int

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.layers + self.final_norm

    @property
    def multiplied(self) -> int:
        """Parameters that each token is multiplied with: all but an input embedding that is only looked up."""
        return self.layers + self.final_norm + (self.head or self.embedding)


def linear_modules(shape: Shape) -> dict[str, tuple[int, int]]:
    """Return the decoder's linear modules: full name to (in, out) features."""
    h, f, q, kv, mixer = (
        *(shape.hidden_size, shape.intermediate_size, shape.query_size),
        shape.key_value_size,
        shape.mixer,
    )
    mlp = "mlp" if mixer is None else "feed_forward"
    layer = {
        "self_attn.q_proj": (h, q),
        "self_attn.k_proj": (h, kv),
        "self_attn.v_proj": (h, kv),
        "self_attn.o_proj": (q, h),
        **({f"{mlp}.gate_proj": (h, f)} if shape.gated_mlp else {}),
        f"{mlp}.up_proj": (h, f),
        f"{mlp}.down_proj": (f, h),
    }
    if mixer is not None:
        layer |= {"mamba.in_proj": (h, mixer.in_size), "mamba.out_proj": (mixer.inner, h)}
    return {
        f"model.layers.{number}.{name}": size
        for number in range(shape.num_hidden_layers)
        for name, size in layer.items()
    }


def count_parameters(shape: Shape) -> Counts:
    """Return the numbers of parameters of the model."""
    h, q, kv = shape.hidden_size, shape.query_size, shape.key_value_size
    weights = sum(rows * columns for rows, columns in linear_modules(shape).values())
    biases = (q + 2 * kv) * shape.attention_bias + h * shape.output_bias
    biases += (2 * shape.intermediate_size + h) * shape.mlp_bias
    norms = 2 * h * shape.norm_weights + 2 * shape.head_dim * shape.query_key_norm
    embedding = shape.vocab_size * h
    return Counts(
        embedding=embedding,
        head=0 if shape.tie_word_embeddings else embedding,
        layers=weights + shape.num_hidden_layers * (biases + norms + sum(mixer_vectors(shape).values())),
        final_norm=h * shape.norm_weights,
    )


def mixer_vectors(shape: Shape) -> dict[str, int]:
    """Return what a layer's mixer has beside its linear modules: name to number of parameters."""
    mixer = shape.mixer
    if mixer is None:
        return {}
    return {
        "mamba.conv1d.weight": mixer.conv_size * mixer.taps,
        "mamba.conv1d.bias": mixer.conv_size,
        "mamba.dt_bias": mixer.heads,
        "mamba.A_log": mixer.heads,
        "mamba.D": mixer.heads,
    }


def count_matching(shape: Shape, patterns: list[str]) -> int:
    """Return how many parameters of a model without biases have a name that one of the patterns (`*.mamba.*`) fits."""
    h, embedding = shape.hidden_size, shape.vocab_size * shape.hidden_size
    norm = h * shape.norm_weights
    sizes = {"model.embed_tokens.weight": embedding, "model.final_layernorm.weight": norm}
    if not shape.tie_word_embeddings:
        sizes["lm_head.weight"] = embedding
    sizes |= {f"{name}.weight": rows * columns for name, (rows, columns) in linear_modules(shape).items()}
    small = mixer_vectors(shape) | {"input_layernorm.weight": norm, "pre_ff_layernorm.weight": norm}
    for layer in range(shape.num_hidden_layers):
        sizes |= {f"model.layers.{layer}.{name}": size for name, size in small.items()}
    return sum(size for name, size in sizes.items() if any(fnmatchcase(name, pattern) for pattern in patterns))


def adapted_modules(shape: Shape, lora: dict[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Return the modules that `train.lora` adapts: full name to (in, out, rank), chosen as peft chooses.

    Args:
        shape: of the base.
        lora: fields of `peft.LoraConfig`.
    """
    return _adapted(shape, json.dumps(lora, sort_keys=True))


@lru_cache(maxsize=8)  # a plan asks a dozen times, and a 70B model has 560 modules
def _adapted(shape: Shape, options: str) -> dict[str, tuple[int, int, int]]:
    lora = json.loads(options)
    everywhere = linear_modules(shape)
    modules = everywhere | {
        "lm_head": (shape.hidden_size, shape.vocab_size),
        "model.embed_tokens": (shape.vocab_size, shape.hidden_size),
    }
    targets = lora.get("target_modules") or DEFAULT_TARGETS
    if targets == "all-linear":
        modules, targets = everywhere, ".*"
    excluded, layers = lora.get("exclude_modules") or [], lora.get("layers_to_transform")
    numbers = None if layers is None else {layers} if isinstance(layers, int) else set(layers)
    return {
        name: (*size, rank_of(name, lora))
        for name, size in modules.items()
        if _matches(name, targets)
        and not _matches(name, excluded)
        and (numbers is None or _layer_number(name) in numbers)
    }


def _matches(name: str, wanted: list[str] | str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == suffix or name.endswith(f".{suffix}") for suffix in wanted)


def _layer_number(name: str) -> int | None:
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def rank_of(name: str, lora: dict[str, Any]) -> int:
    """Return a module's rank: `rank_pattern` where one of its keys fits, else `r`."""
    pattern = lora.get("rank_pattern") or {}
    found = next((rank for key, rank in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), None)
    return int(lora.get("r", 8) if found is None else found)


def count_lora(shape: Shape, lora: dict[str, Any]) -> int:
    """Return an adapter's parameters: r (in + out) for each adapted module (Hu et al., arXiv 2106.09685).

    `use_dora` adds a magnitude, `lora_bias` a bias for each output; `modules_to_save` are trained whole.
    """
    per_output = bool(lora.get("use_dora")) + bool(lora.get("lora_bias"))
    adapted = adapted_modules(shape, lora).values()
    count = sum(rank * (rows + columns) + per_output * columns for rows, columns, rank in adapted)
    embedding = shape.vocab_size * shape.hidden_size
    return count + embedding * sum(name in ("lm_head", "embed_tokens") for name in lora.get("modules_to_save") or [])
