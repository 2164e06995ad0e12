"""Which config.json is an Adamba's, and which of them plain transformers and llama.cpp can read. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentforge.errors import UserError

PLAIN_TYPE, OWN_TYPE = "falcon_h1", "adamba"
"""An Adamba is written as a FalconH1, which plain transformers opens, unless a switch of a nanochat base is on."""
PLAIN_CLASS = "FalconH1ForCausalLM"
SWITCHES: dict[str, Any] = {
    "norm_weights": True,
    "qk_norm": False,
    "embedding_norm": False,
    "logit_softcap": None,
    "mlp": "gated",
    "rotary_flipped": False,
}
"""What differs between FalconH1 and nanochat, and FalconH1's way of it."""


def is_adamba(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is an Adamba's: of its own type, or a FalconH1 with fields that Adamba adds."""
    kind = config.get("model_type")
    return kind == OWN_TYPE or (kind == PLAIN_TYPE and ("base_hidden_size" in config or "exit_layers" in config))


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a norm that couples all Mamba heads.

    Raises:
        UserError: the config asks for it.
    """
    if config.get("mamba_rms_norm"):
        raise UserError(
            "model.config.mamba_rms_norm: an Adamba cannot have it, because no width could be cut out of the model"
        )


def gguf_refusal(config: Mapping[str, Any]) -> str | None:
    """Say why a nanochat graft has no GGUF; None for every other Adamba, which is converted as a FalconH1."""
    if config.get("model_type") != OWN_TYPE:
        return None
    parts = ", ".join(f"{name}={config[name]}" for name, plain in SWITCHES.items() if config.get(name, plain) != plain)
    return (
        f"GGUF cannot express {parts}, which this model has from its nanochat base; serve the merged checkpoint "
        "with transformers instead"
    )


def adapter_refusal(config: Mapping[str, Any], name: str) -> str | None:
    """Say why no adapter may change a tensor of dropped attention: an Adamba does not run it, transformers would."""
    for layer in config.get("dropped_attention") or []:
        if f"layers.{layer}.self_attn." in name:
            return (
                f"layer {layer} has no attention (dropped_attention in its config.json); train the adapter with "
                "agentforge, which leaves it out"
            )
    return None
