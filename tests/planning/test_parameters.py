"""Counts from shapes against the models and adapters themselves."""

from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from agentforge.errors import UserError
from agentforge.models.auto import register_all
from agentforge.models.config_check import CONFIG_CLASSES
from agentforge.planning.parameters import count_lora, count_matching, count_parameters
from agentforge.planning.shapes import known_models, shape_from_config, sized_by_table

register_all()

TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = [
    {"model_type": "llama", **TINY},
    {"model_type": "llama", **TINY, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    {"model_type": "mistral", **TINY},
    {"model_type": "qwen2", **TINY},
    {"model_type": "qwen2", **TINY, "tie_word_embeddings": True, "num_key_value_heads": 4},
    {"model_type": "qwen3", **TINY, "head_dim": 16},
    {"model_type": "qwen3", **TINY, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
]
MIXER = {
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_ssm": 32,
    "mamba_d_state": 16,
    "mamba_d_conv": 3,
    "head_dim": 8,
}
HYBRIDS = [
    {"model_type": "falcon_h1", **TINY, **MIXER},
    {"model_type": "adamba", **TINY, **MIXER, "tie_word_embeddings": True, "mamba_n_groups": 2},
    {"model_type": "adamba", **TINY, **MIXER, "mlp": "relu2", "norm_weights": False},
]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORAS: list[dict[str, Any]] = [
    {"r": 4},
    {"r": 4, "target_modules": ALL},
    {"r": 4, "target_modules": "all-linear"},
    {"r": 4, "target_modules": r".*layers\.[01]\..*(q|down)_proj"},
    {"r": 4, "target_modules": ["self_attn.q_proj", "up_proj"], "rank_pattern": {"up_proj": 2}},
    {"r": 4, "target_modules": ALL, "layers_to_transform": [0, 2]},
    {"r": 4, "target_modules": ALL, "exclude_modules": ["k_proj"], "use_dora": True},
    {"r": 4, "target_modules": ["q_proj"], "lora_bias": True},
    {"r": 4, "target_modules": ["q_proj", "lm_head"]},
    {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
]


def on_meta(config: dict[str, Any]) -> Any:
    fields = dict(config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))


@pytest.mark.parametrize("config", CONFIGS + HYBRIDS, ids=lambda config: config["model_type"])
def test_parameters_are_those_of_the_model(config: dict[str, Any]) -> None:
    assert count_parameters(shape_from_config(config)).total == sum(p.numel() for p in on_meta(config).parameters())


@pytest.mark.parametrize("config", HYBRIDS, ids=lambda config: config["model_type"])
@pytest.mark.parametrize("pattern", ["*.mamba.*", "*.mamba.A_log", "*.feed_forward.*", "*layernorm*", "*"])
def test_parameters_of_a_pattern_are_those_of_the_model(config: dict[str, Any], pattern: str) -> None:
    named = dict(on_meta(config).named_parameters())
    expected = sum(p.numel() for name, p in named.items() if fnmatchcase(name, pattern))
    assert count_matching(shape_from_config(config), [pattern]) == expected


def test_a_scaled_shape_is_that_of_the_narrow_model() -> None:
    half = {**HYBRIDS[0], "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    half |= {"num_key_value_heads": 1, "mamba_n_heads": 2, "mamba_d_ssm": 16}
    assert shape_from_config(HYBRIDS[0]).scaled(Fraction(1, 2)) == shape_from_config(half)


@pytest.mark.parametrize("model_type", list(filter(sized_by_table, CONFIG_CLASSES)))
def test_defaults_are_those_of_the_config_class(model_type: str) -> None:
    real = AutoConfig.for_model(model_type).to_dict() | {"model_type": model_type}  # an Adamba is saved as a FalconH1
    assert shape_from_config({"model_type": model_type}) == shape_from_config(real)


@pytest.mark.parametrize("lora", LORAS, ids=str)
@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[5]], ids=lambda config: config["model_type"])
def test_lora_is_what_peft_makes(config: dict[str, Any], lora: dict[str, Any]) -> None:
    with torch.device("meta"):
        adapted = get_peft_model(on_meta(config), LoraConfig(task_type="CAUSAL_LM", **lora))
    assert count_lora(shape_from_config(config), lora) == adapted.get_nb_trainable_parameters()[0]


def test_known_models_have_their_published_sizes() -> None:
    counts = {name: count_parameters(shape_from_config(config)).total for name, config in known_models().items()}
    assert counts["deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"] == 32_763_876_352
    assert counts["deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"] == 7_615_616_512
    assert counts["deepseek-ai/DeepSeek-R1-Distill-Llama-8B"] == 8_030_261_248
    assert counts["Qwen/Qwen2.5-0.5B"] == 494_032_768
    assert counts["Qwen/Qwen3-0.6B"] == 596_049_920
    assert counts["openai-community/gpt2"] == 124_439_808
    assert counts["mistralai/Mixtral-8x7B-v0.1"] == 46_702_792_704
    mixtral = count_parameters(shape_from_config(known_models()["mistralai/Mixtral-8x7B-v0.1"]))
    assert mixtral.active == 12_879_925_248


def test_adapters_of_known_models() -> None:
    known = known_models()
    lora = {"r": 64, "target_modules": ALL}
    assert count_lora(shape_from_config(known["deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"]), lora) == 536_870_912
    assert count_lora(shape_from_config(known["Qwen/Qwen3-4B"]), lora) == 132_120_576


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(UserError, match=r"model_type 'qwen44' is unknown to transformers; did you mean 'qwen"):
        shape_from_config({"model_type": "qwen44"})


@pytest.mark.parametrize(("r", "millions"), [(32, 66.1), (64, 132.1), (128, 264.2)])
def test_lora_of_a_4b_model_is_three_times_what_the_affine_spec_says(r: int, millions: float) -> None:
    """The spec speaks of 40M at r = 64; of a Qwen3-4B shape and the seven modules it is 132.1M."""
    config = {
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    }
    counted = count_lora(shape_from_config(config), {"r": r, "target_modules": ALL})
    by_hand = 36 * r * (2 * (2560 + 4096) + 2 * (2560 + 1024) + 3 * (2560 + 9728))
    assert counted == by_hand and round(counted / 1e6, 1) == millions
