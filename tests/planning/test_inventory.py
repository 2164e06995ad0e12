"""The tables of known architectures against the models themselves, name by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import AutoConfig

from agentforge.models.config_check import CONFIG_CLASSES
from agentforge.planning.inventory import table_inventory
from agentforge.planning.meta import measured_inventory, measured_shape
from agentforge.planning.shapes import shape_from_config, sized_by_table
from tests.planning.test_parameters import CONFIGS, HYBRIDS, TINY

# A null means something else than a field that is left out, and fields of other classes mean nothing.
UNUSUAL: list[dict[str, Any]] = [
    {"model_type": "mistral", **TINY, "sliding_window": None, "head_dim": None, "attention_bias": True},
    {"model_type": "mistral", **TINY, "sliding_window": 16},
    {"model_type": "qwen2", **TINY, "num_key_value_heads": None, "use_sliding_window": True, "max_window_layers": 1},
    {"model_type": "qwen3", **TINY, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    {"model_type": "llama", **TINY, "num_key_value_heads": None, "mlp_bias": True},
]


@pytest.mark.parametrize("config", CONFIGS + HYBRIDS + UNUSUAL, ids=lambda config: config["model_type"])
def test_a_table_says_what_the_model_says(config: dict[str, Any]) -> None:
    shape = shape_from_config(config)
    assert shape.config is None, "this one is to be read without torch"
    table, measured = table_inventory(shape), measured_inventory(json.dumps(config))
    assert {p.name: (p.size, p.role, p.uses) for p in table.parameters} == {
        p.name: (p.size, p.role, p.uses) for p in measured.parameters
    }
    # The model lists the mixer's convolution too; nobody adapts it, and the table knows its activations exactly.
    convolved = {p.name for p in measured.projections if p.name.endswith("conv1d")}
    assert set(table.projections) == {p for p in measured.projections if p.name not in convolved}
    real = measured_shape(config)
    for name in ("hidden_size", "num_hidden_layers", "query_size", "key_value_size", "attention_windows", "vocab_size"):
        assert getattr(shape, name) == getattr(real, name), name


def test_every_architecture_with_a_table_is_in_the_test() -> None:
    assert {config["model_type"] for config in CONFIGS + HYBRIDS} == set(filter(sized_by_table, CONFIG_CLASSES))


@pytest.mark.parametrize(
    "switch",
    [{"mamba_rms_norm": True}, {"mamba_proj_bias": True}, {"projectors_bias": True}, {"attention_bias": True},
     {"mlp_bias": True}, {"mamba_conv_bias": False}, {"mamba_d_ssm": None}],
    ids=lambda switch: next(iter(switch)),
)  # fmt: skip
def test_what_the_table_of_hybrids_does_not_know_is_measured(switch: dict[str, Any]) -> None:
    """Their parameters were counted as if the switch were off."""
    config = HYBRIDS[0] | switch | ({"mamba_n_heads": 8} if "mamba_d_ssm" in switch else {})
    AutoConfig.for_model(**config)  # it is a config
    assert shape_from_config(config).config is not None
