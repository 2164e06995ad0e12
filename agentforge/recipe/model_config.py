"""What is wrong with the sizes in a model's config, before a library divides by them or multiplies words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agentforge.errors import did_you_mean
from agentforge.recipe.arguments import show_value

# Names that the config classes of transformers share. Other fields are the class's own to check.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "mamba_d_ssm",
    "mamba_n_heads",
    "mamba_d_state",
    "mamba_n_groups",
    "mamba_d_conv",
)
ACTIVATION_FIELDS = ("hidden_act", "hidden_activation", "activation_function")
# Those of transformers' `ACT2FN`; a test compares.
ACTIVATIONS = (
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
    *("gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu"),
    *("relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu"),
)
SHARES = (
    *("attention_dropout", "hidden_dropout", "residual_dropout", "embedding_dropout", "dropout"),
    *("attn_pdrop", "embd_pdrop", "resid_pdrop"),
)
ABOVE_0 = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rope_theta")
SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias")


def config_problems(config: Mapping[str, Any], *, layered: bool = False) -> list[tuple[str, str]]:
    """Return the fields of a config that cannot be right: the field, and a sentence without its name.

    Args:
        config: fields of a transformers config; null is a field that is not given.
        layered: a list of sizes, one for each layer, is fine, as some architectures have them.
    """
    given = {name: value for name, value in config.items() if value is not None}
    found = []
    if not isinstance(given.get("model_type", ""), str):
        found.append(("model_type", f"is {show_value(given['model_type'])}; it must be text"))
    for name in SIZES:
        value = given.get(name, 1)
        if not _is_size(value) and not (layered and isinstance(value, list) and value and all(map(_is_size, value))):
            found.append((name, f"is {show_value(value)}; it must be a whole number of at least 1"))
    found += [
        (name, f"is {show_value(given[name])}; it must be true or false")
        for name in SWITCHES
        if not isinstance(given.get(name, False), bool)
    ]
    return found + list(_value_problems(given))


def _value_problems(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield values that a library would choke on when the model is made, or at its first step."""
    for name in ACTIVATION_FIELDS:
        if (value := given.get(name, "relu")) not in ACTIVATIONS:
            hint = did_you_mean(str(value), ACTIVATIONS) or f"; it may be {', '.join(ACTIVATIONS)}"
            yield name, f"is {show_value(value)}, which is no activation of transformers{hint}"
    for name in SHARES:
        if not _is_number(value := given.get(name, 0)) or not 0 <= value <= 1:
            yield name, f"is {show_value(value)}; it must be a number from 0 to 1"
    for name in ABOVE_0:
        if not _is_number(value := given.get(name, 1)) or value <= 0:
            yield name, f"is {show_value(value)}; it must be a number above 0"
    if not _is_number(value := given.get("initializer_range", 0)) or value < 0:
        yield "initializer_range", f"is {show_value(value)}; it must be a number of at least 0"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 1
