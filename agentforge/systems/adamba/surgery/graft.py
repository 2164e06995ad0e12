"""A Llama-type transformer becomes an Adamba: all its weights are kept, and each layer gets a Mamba-2 mixer that is
silent (its output projection is zero), so that the logits stay the same to the last bit."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer

from agentforge.errors import UserError
from agentforge.models.checkpoint import Checkpoint
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.mixer import fresh_mamba
from agentforge.systems.adamba.modeling.shape import AdambaShape, resized
from agentforge.systems.adamba.surgery.streaming import check_tensors, main_dtype, names_and_shapes, write_adamba

RENAMED = {
    "feed_forward": "mlp",
    "pre_ff_layernorm": "post_attention_layernorm",
    "final_layernorm": "norm",
}
"""What Llama calls it, by FalconH1's name."""
HELD = ("llama", "mistral")
NOT_HELD = {
    "qwen2": "biases on queries, keys and values",
    "qwen3": "norms on queries and keys",
    "gemma": "norms of its own and scaled embeddings",
    "gemma2": "a second pair of norms in each layer",
    "gemma3_text": "a second pair of norms in each layer",
    "phi3": "fused projections",
    "olmo2": "norms behind the layers",
    "smollm3": "layers without rotary embedding",
    "mixtral": "experts",
}
DERIVED = "rotary_emb.inv_freq"
"""A buffer in checkpoints of older transformers; the config says the same."""


@dataclass(frozen=True)
class MambaSizes:
    """The mixers that are grafted.

    Attributes:
        heads: None: as many as make its inner width that of the residual stream, which costs about 3 * hidden_size^2
            weights a layer, and nests as the attention heads do.
        d_head: channels of a head; None: those of an attention head.
        d_state: size of the state per channel.
        d_conv: taps of the convolution.
        chunk: positions that the scan treats at once.
    """

    heads: int | None = None
    d_head: int | None = None
    d_state: int = 128
    d_conv: int = 4
    chunk: int = 128

    def fields(self, hidden_size: int, head_dim: int) -> dict[str, Any]:
        """Return the fields of a FalconH1 config.

        Raises:
            UserError: no number of heads was given and heads of this size do not fill the residual stream.
        """
        d_head = self.d_head or head_dim
        if self.heads is None and hidden_size % d_head:
            raise UserError(
                f"surgery.mamba: heads of {d_head} do not fill hidden_size {hidden_size}; give heads, or another d_head"
            )
        heads = self.heads or hidden_size // d_head
        return {
            "mamba_n_heads": heads,
            "mamba_d_head": d_head,
            "mamba_d_ssm": heads * d_head,
            "mamba_d_state": self.d_state,
            "mamba_d_conv": self.d_conv,
            "mamba_chunk_size": self.chunk,
            "mamba_n_groups": 1,
            "mamba_rms_norm": False,
        }


def graft(base: Path, target: Path, sizes: MambaSizes, seed: int) -> None:
    """Write the Adamba that a Llama or Mistral becomes.

    Args:
        base: its checkpoint.
        target: an existing directory.
        sizes: of the mixers.
        seed: of the mixers' first values.

    Raises:
        UserError: the base has what FalconH1 cannot hold exactly.
        CheckRefused: its tensors are not those of its config.
    """
    checkpoint = Checkpoint(base)
    checkpoint.tensors = {name: info for name, info in checkpoint.tensors.items() if not name.endswith(DERIVED)}
    config = grafted_config(base, checkpoint.config, sizes)
    shapes = names_and_shapes(config)
    names = {name: llama_name(name) for name in shapes if ".mamba." not in name}
    check_tensors(checkpoint, {names[name]: shapes[name] for name in names}, config.tie_word_embeddings)
    write_graft(target, config, main_dtype(checkpoint), lambda name: checkpoint.read(names[name]), seed)


def llama_name(name: str) -> str:
    """Return Llama's name of a tensor that a FalconH1 shares with it."""
    return ".".join(RENAMED.get(word, word) for word in name.split("."))


def grafted_config(base: Path, fields: Mapping[str, Any], sizes: MambaSizes) -> Any:
    """Return the config of the graft of a Llama or Mistral.

    Raises:
        UserError: the base has what FalconH1 cannot hold exactly.
    """
    _refuse_what_is_not_held(base, fields)
    old: Any = AutoConfig.from_pretrained(base)
    same = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "head_dim"),
        *("num_key_value_heads", "hidden_act", "rms_norm_eps", "initializer_range", "max_position_embeddings"),
        *("rope_parameters", "attention_dropout", "tie_word_embeddings"),
        *("pad_token_id", "bos_token_id", "eos_token_id"),
    )
    config: Any = AdambaConfig(
        **{name: getattr(old, name) for name in same}, **sizes.fields(old.hidden_size, old.head_dim)
    )
    return resized(config, AdambaShape.of(config))


def _refuse_what_is_not_held(base: Path, fields: Mapping[str, Any]) -> None:
    # A model that lost a part on the way still loads and still talks. So anything unknown is refused rather than
    # skipped.
    kind = str(fields.get("model_type"))
    if kind not in HELD:
        why = f" has {NOT_HELD[kind]}, which FalconH1 cannot hold exactly" if kind in NOT_HELD else " is not known here"
        raise UserError(f"graft: {base} is a {kind}, which{why}; use a {', a '.join(HELD)} or a nanochat as the base")
    wrong = {
        "attention_bias": "biases in its attention",
        "mlp_bias": "biases in its MLP",
        "sliding_window": "a sliding window",
        "quantization_config": "quantised weights",
    }
    for name, what in wrong.items():
        if fields.get(name):
            raise UserError(f"graft: {base} has {what} ({name} in config.json), which an Adamba cannot hold exactly")
    if fields.get("hidden_act", "silu") != "silu":
        raise UserError(f"graft: {base} has hidden_act {fields['hidden_act']}; Mamba's kernels support only silu")


def write_graft(target: Path, config: Any, dtype: torch.dtype, read: Callable[[str], torch.Tensor], seed: int) -> None:
    """Write a graft: the base's tensors from ``read`` (by the graft's names), the mixers' own fresh and silent."""
    # Why the logits stay equal to the last bit: all of FalconH1's multipliers are 1, the norms keep the base's
    # epsilon, and each layer adds mixer + attention where the base adds attention, with a mixer that is exactly 0.
    # Only the mixer's output projection is zero. The rest is not, so the output projection gets a gradient at the
    # first step; a mixer of nothing but zeros would never move.
    mixers = FreshMixers(config, seed)

    def tensor(name: str) -> torch.Tensor:
        return (mixers.tensor(name) if ".mamba." in name else read(name)).to(dtype)

    write_adamba(target, config, dtype, tensor)


class FreshMixers:
    """The first values of mixers, made again and again from the seed; those of one layer are kept.

    Args:
        config: whose mixers.
        seed: every layer draws from its own generator.
    """

    def __init__(self, config: Any, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.layer = ""
        self.values: dict[str, torch.Tensor] = {}

    def tensor(self, name: str) -> torch.Tensor:
        """Return the tensor of a full name such as ``model.layers.3.mamba.A_log``, in float32."""
        layer, _, parameter = name.partition(".mamba.")
        if parameter == "out_proj.weight":
            return torch.zeros(self.config.hidden_size, self.config.mamba_d_ssm)
        if layer != self.layer:  # a checkpoint is written layer by layer: one mixer is in memory
            with torch.device("meta"):
                mixer = FalconH1Mixer(self.config, layer_idx=0)
            self.layer, self.values = layer, fresh_mamba(mixer, seeded(self.seed, layer))
        return self.values[parameter]


def seeded(seed: int, name: str) -> torch.Generator:
    """Return a generator of this seed for this name alone, so that tensors can be drawn in any order."""
    # a CPU generator takes 32 bits of its seed and leaves the others unread
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
