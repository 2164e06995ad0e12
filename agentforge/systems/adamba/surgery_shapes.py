"""What surgery does to a config: only the numbers that decide how large the model is."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from agentforge.recipe.schema import Surgery
from agentforge.recipe.section import keys_of
from agentforge.systems.adamba.recipe_sections import AdambaSurgery, GraftedMamba

NANOCHAT = {"mlp": "relu2", "norm_weights": False}
WIDTHS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "mamba_n_heads")


def operated(config: dict[str, Any], surgery: Surgery) -> dict[str, Any]:
    """Return the config that an operation makes of a config.json."""
    chosen = keys_of(surgery, AdambaSurgery)
    changed = grafted(config, chosen.mamba or GraftedMamba()) if surgery.operation == "graft" else dict(config)
    if surgery.operation in ("expand", "slice"):
        share = Fraction(chosen.width or "1")
        changed |= {name: int(changed[name] * share) for name in WIDTHS}
        changed |= chosen.shape.model_dump(exclude_none=True) if chosen.shape else {}
        changed["mamba_d_ssm"] = changed["mamba_n_heads"] * config["mamba_d_ssm"] // config["mamba_n_heads"]
    if surgery.operation == "truncate" and chosen.layers is not None:
        changed["num_hidden_layers"] = chosen.layers
    return changed


def grafted(config: dict[str, Any], mamba: GraftedMamba) -> dict[str, Any]:
    """Return the config of a graft; without other words its mixers are as wide as the residual stream."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    d_head = mamba.d_head or head_dim
    mixers = mamba.heads or hidden // d_head
    nanochat = config.get("model_type") == "nanochat"
    return {
        **config,
        **(NANOCHAT if nanochat else {}),
        "model_type": "adamba" if nanochat else "falcon_h1",
        "head_dim": head_dim,
        "num_key_value_heads": config.get("num_key_value_heads") or heads,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "mamba_n_heads": mixers,
        "mamba_d_ssm": mixers * d_head,
        "mamba_d_state": mamba.d_state,
        "mamba_n_groups": 1,
        "mamba_d_conv": mamba.d_conv,
    }
