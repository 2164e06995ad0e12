"""nanochat becomes an Adamba: from the Hub's `NanoChatForCausalLM`, and from Karpathy's own checkpoint directory
(``model_XXXXXX.pt`` with ``meta_XXXXXX.json``, https://github.com/karpathy/nanochat, as of its first releases).

Later nanochats have more in them (value embeddings, weights on the residual stream, sliding windows). A converter that
skips what it does not know makes another model of them; here each unknown name is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor
from transformers import NanoChatConfig, NanoChatForCausalLM

from agentforge.errors import CheckRefused, UserError
from agentforge.models.checkpoint import Checkpoint
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.shape import AdambaShape, resized
from agentforge.systems.adamba.surgery.graft import MambaSizes, write_graft
from agentforge.systems.adamba.surgery.streaming import Weights, check_tensors, main_dtype, names_and_shapes

SWITCHES: dict[str, Any] = {
    "norm_weights": False,
    "qk_norm": True,
    "embedding_norm": True,
    "mlp": "relu2",
    "rotary_flipped": True,
}
"""How an Adamba computes what nanochat computes; beside `logit_softcap`."""
SOFTCAP = 15.0
MODEL_CONFIG = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
ON_THE_HUB = {"feed_forward.up_proj": "mlp.fc1", "feed_forward.down_proj": "mlp.fc2"}
IN_NANOCHAT = {
    "feed_forward.up_proj": "mlp.c_fc",
    "feed_forward.down_proj": "mlp.c_proj",
    "self_attn.q_proj": "attn.c_q",
    "self_attn.k_proj": "attn.c_k",
    "self_attn.v_proj": "attn.c_v",
    "self_attn.o_proj": "attn.c_proj",
    "model.layers": "transformer.h",
    "model.embed_tokens": "transformer.wte",
}
COMPILED = "_orig_mod."
"""What torch.compile puts before names."""


class RawCheckpoint:
    """Karpathy's directory, read without running what is in it; the newest step.

    Attributes:
        config: `model_config` of its meta file.

    Raises:
        UserError: there is no such pair of files.
        CheckRefused: the config has a field that is not known here, or the file holds more than tensors.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        models = sorted(directory.glob("model_*.pt"))
        if not models:
            raise UserError(f"{directory} has no model_XXXXXX.pt, so it is not a nanochat checkpoint")
        meta = directory / models[-1].name.replace("model_", "meta_").replace(".pt", ".json")
        if not meta.is_file():
            raise UserError(f"{directory} has {models[-1].name} but not {meta.name}, which states the model's size")
        self.config: dict[str, Any] = json.loads(meta.read_text(encoding="utf-8"))["model_config"]
        self._check_config(meta)
        try:
            state = torch.load(models[-1], map_location="cpu", weights_only=True, mmap=True)
        except (UnpicklingError, RuntimeError, EOFError) as error:
            raise CheckRefused(
                f"{models[-1]} is damaged or holds more than tensors, so it was not read; get it again"
            ) from error
        self.tensors: dict[str, Tensor] = {name.removeprefix(COMPILED): tensor for name, tensor in state.items()}
        self._cut_padding()

    def _check_config(self, meta: Path) -> None:
        window = self.config.pop("window_pattern", "L")
        if set(window) != {"L"}:
            raise CheckRefused(f"{meta}: window_pattern is {window}, but an Adamba's attention has no windows")
        if unknown := sorted(set(self.config) - set(MODEL_CONFIG)):
            raise CheckRefused(f"{meta}: {unknown[0]} is not supported: this nanochat computes something else")
        if missing := [name for name in MODEL_CONFIG if name not in self.config]:
            raise CheckRefused(f"{meta}: model_config lacks {missing[0]}")

    def _cut_padding(self) -> None:
        """Leave out the rows that nanochat adds to the vocabulary to make it a round number, and never predicts."""
        for name in ("transformer.wte.weight", "lm_head.weight"):
            if name in self.tensors and self.tensors[name].shape[0] > self.config["vocab_size"]:
                self.tensors[name] = self.tensors[name][: self.config["vocab_size"]]

    def read(self, name: str) -> Tensor:
        """Return one tensor as it is stored."""
        return self.tensors[name]

    @property
    def dtype(self) -> torch.dtype:
        """The widest of the tensors': nanochat keeps its embeddings in bfloat16 and the rest in float32."""
        return max((tensor.dtype for tensor in self.tensors.values()), key=lambda dtype: dtype.itemsize)

    def hub_config(self) -> NanoChatConfig:
        """Return the same as a config of transformers."""
        config = self.config
        return NanoChatConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["n_embd"],
            intermediate_size=4 * config["n_embd"],
            num_hidden_layers=config["n_layer"],
            num_attention_heads=config["n_head"],
            num_key_value_heads=config["n_kv_head"],
            max_position_embeddings=config["sequence_len"],
            rms_norm_eps=torch.finfo(torch.float32).eps,  # of F.rms_norm where none is given
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            final_logit_softcapping=SOFTCAP,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )


def is_nanochat(base: Path) -> bool:
    """Tell whether a directory holds a nanochat, in either form."""
    if (base / "config.json").is_file():
        return bool(json.loads((base / "config.json").read_text(encoding="utf-8")).get("model_type") == "nanochat")
    return any(base.glob("model_*.pt"))


def open_nanochat(base: Path) -> tuple[NanoChatConfig, Weights, torch.dtype, Callable[[str], str]]:
    """Return a nanochat's config, weights and their dtype, and what it calls a tensor that an Adamba has too.

    Raises:
        UserError: a file is missing, or the config asks for what no nanochat has.
        CheckRefused: its config has a field that is not known here.
    """
    if not (base / "config.json").is_file():
        raw = RawCheckpoint(base)
        return raw.hub_config(), raw, raw.dtype, lambda name: _renamed(name, IN_NANOCHAT)
    checkpoint = Checkpoint(base)
    config = NanoChatConfig.from_pretrained(base)
    if config.attention_bias or config.hidden_act != "relu2":
        raise UserError(
            f"graft: {base} has biases in its attention or an activation other than relu2, so it is not a nanochat"
        )
    return config, checkpoint, main_dtype(checkpoint), lambda name: _renamed(name, ON_THE_HUB)


def _renamed(name: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        name = name.replace(ours, theirs)
    return name


def graft_nanochat(base: Path, target: Path, sizes: MambaSizes, seed: int) -> None:
    """Write the Adamba that a nanochat becomes.

    Args:
        base: a checkpoint of the Hub's form, or Karpathy's directory.
        target: an existing directory.
        sizes: of the mixers.
        seed: of the mixers' first values.

    Raises:
        UserError: a file is missing, or the base has what no nanochat has.
        CheckRefused: a name in its config or among its tensors is not known here.
    """
    # Every tensor is accounted for in both directions: one that the Adamba lacks is refused like one that the base
    # lacks.
    old, weights, dtype, named = open_nanochat(base)
    config = _grafted_config(old, sizes)
    shapes = names_and_shapes(config)
    names = {name: named(name) for name in shapes if ".mamba." not in name}
    check_tensors(weights, {names[name]: shapes[name] for name in names}, old.tie_word_embeddings)
    write_graft(target, config, dtype, lambda name: weights.read(names[name]), seed)


def _grafted_config(old: Any, sizes: MambaSizes) -> Any:
    same = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "rms_norm_eps", "initializer_range", "max_position_embeddings", "rope_parameters"),
        *("attention_dropout", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"),
    )
    head_dim = getattr(old, "head_dim", None) or old.hidden_size // old.num_attention_heads
    config: Any = AdambaConfig(
        **{name: getattr(old, name) for name in same},
        **sizes.fields(old.hidden_size, head_dim),
        **SWITCHES,
        **{"head_dim": head_dim},
        logit_softcap=old.final_logit_softcapping,
        hidden_act="silu",  # of the mixers; the MLP has its own
    )
    return resized(config, AdambaShape.of(config))


def reference(base: Path) -> NanoChatForCausalLM:
    """Return transformers' own nanochat with the base's weights in float32: what the graft is compared with."""
    config, weights, _, named = open_nanochat(base)
    model = NanoChatForCausalLM(config)
    names = {ours: named(_adamba_name(ours)) for ours in model.state_dict()}
    model.load_state_dict({ours: weights.read(theirs).float() for ours, theirs in names.items()})
    return model.eval()


def _adamba_name(name: str) -> str:
    return _renamed(name, {theirs: ours for ours, theirs in ON_THE_HUB.items()})
