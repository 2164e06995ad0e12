"""Architectures without a table, counted on the meta device, against counts by hand and against real tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from agentforge.errors import UserError
from agentforge.planning.flops import flops_per_token
from agentforge.planning.memory import estimate_memory, layer_activations, needs_gradient_checkpointing
from agentforge.planning.meta import measured_shape
from agentforge.planning.parameters import (
    adapted_modules,
    count_lora,
    count_matching,
    count_parameters,
    multiplied_matching,
)
from agentforge.planning.plan import make_plan
from agentforge.planning.shapes import shape_from_config, shape_of
from agentforge.recipe.schema import Recipe
from tests.planning.test_memory import saved_bytes

H, F, L, V = 32, 48, 3, 96
SIZES = {
    "vocab_size": V,
    "hidden_size": H,
    "intermediate_size": F,
    "num_hidden_layers": L,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = {"model_type": "gpt2", "vocab_size": V, "n_positions": 128, "n_embd": H, "n_layer": L, "n_head": 4}
GEMMA3 = {"model_type": "gemma3_text", **SIZES, "head_dim": 8, "sliding_window": 16,
          "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}  # fmt: skip
ATTENTION = H * H + 2 * H * H // 2 + H * H  # q, k and v of two heads, o
NORMS = 2 * H


def recipe(config: dict[str, Any], **train: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "model": {"config": config, "dtype": "float32"},
            "data": {"max_length": 128},
            "train": {"method": "pretrain", "args": {"per_device_train_batch_size": 2, "max_steps": 3}, **train},
        }
    )


@pytest.mark.parametrize("config", [GPT2, GEMMA3], ids=lambda config: config["model_type"])
def test_it_is_planned(config: dict[str, Any]) -> None:
    """Both were refused: `the plan knows the shapes of llama, ...`."""
    plan = make_plan(recipe(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert plan.fits and not needs_gradient_checkpointing(recipe(config))


def test_counting_draws_no_random_number() -> None:
    """`train` asks whether to recompute before it makes the model, whose weights must not depend on the question."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    count_lora(shape_from_config(GPT2 | {"n_layer": 2}), {"r": 3, "target_modules": ["c_fc"]})
    assert torch.equal(before, torch.get_rng_state())


def test_gpt2_by_hand() -> None:
    counts = count_parameters(shape_from_config(GPT2))
    layer = (H * 3 * H + 3 * H) + (H * H + H) + (H * 4 * H + 4 * H) + (4 * H * H + H) + 4 * H
    assert (counts.embedding, counts.head, counts.layers) == (V * H, 0, L * layer)
    assert counts.total == V * H + 128 * H + L * layer + 2 * H
    # Token and position embeddings are looked up; the first is multiplied once, as the head that is tied to it.
    assert counts.multiplied == V * H + L * layer + 2 * H


@pytest.mark.parametrize(
    "lora",
    [
        {"r": 4},
        {"r": 4, "target_modules": "all-linear"},
        {"r": 4, "target_modules": ["c_attn", "mlp.c_proj"], "layers_to_transform": [0, 2]},
        {"r": 4, "target_modules": r".*h\.[01]\.attn\.c_attn"},
        {"r": 2, "target_modules": ["c_fc"], "use_dora": True, "modules_to_save": ["ln_f"]},
    ],
    ids=str,
)
def test_lora_is_what_peft_makes(lora: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**GPT2))
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    assert count_lora(shape_from_config(GPT2), lora) == adapted.get_nb_trainable_parameters()[0]


def test_what_lora_adapts_is_named_and_what_it_cannot_is_refused() -> None:
    shape = shape_from_config(GPT2)
    modules = adapted_modules(shape, {"r": 4, "target_modules": ["c_attn"]})
    assert modules == {f"transformer.h.{layer}.attn.c_attn": (H, 3 * H, 4) for layer in range(L)}
    with pytest.raises(UserError, match=r"this gpt2 has no q_proj; it has c_attn, c_fc, c_proj, lm_head"):
        count_lora(shape, {"target_modules": ["q_proj"]})
    known = shape_from_config({"model_type": "llama", **SIZES})
    with pytest.raises(UserError, match=r"this llama has no 'qproj'; did you mean 'q_proj'"):
        count_lora(known, {"target_modules": ["k_proj", "qproj"]})


def test_trained_patterns_are_names_of_the_model() -> None:
    shape = shape_from_config(GPT2)
    assert count_matching(shape, ["*.mlp.*"]) == L * (8 * H * H + 5 * H)
    assert multiplied_matching(shape, ["*.wpe.*", "*.wte.*"]) == V * H


# -- experts ------------------------------------------------------------------------------------------------------

E, K, M = 8, 2, 24  # experts, of which a token uses K, each M wide
EXPERT = 3 * H * M
MOE: dict[str, tuple[dict[str, Any], int, int]] = {
    # model_type: config, parameters of a layer beside attention, norms and routed experts, and its experts' layers
    "mixtral": ({"num_local_experts": E, "intermediate_size": M}, E * H, L),
    "olmoe": ({"num_experts": E, "intermediate_size": M}, E * H + H + H // 2, L),  # norms of queries and keys
    "granitemoe": ({"num_local_experts": E, "intermediate_size": M}, E * H, L),
    "qwen3_moe": ({"num_experts": E, "moe_intermediate_size": M, "head_dim": 8}, E * H + 2 * 8, L),
    "qwen2_moe": (
        {"num_experts": E, "moe_intermediate_size": M, "shared_expert_intermediate_size": 40},
        E * H + 3 * H * 40 + H + (H + H),  # a shared expert, its gate, and biases of q, k and v
        L,
    ),
}


@pytest.mark.parametrize("model_type", list(MOE))
def test_active_and_total_parameters_by_hand(model_type: str) -> None:
    fields, beside, layers = MOE[model_type]
    config = {"model_type": model_type, **SIZES, "num_experts_per_tok": K, "tie_word_embeddings": False, **fields}
    counts = count_parameters(shape_from_config(config))
    common = 2 * V * H + H + L * (ATTENTION + NORMS + beside)
    assert counts.total == common + layers * E * EXPERT
    assert counts.active == common + layers * K * EXPERT
    assert counts.multiplied == counts.active - V * H
    assert counts.linear < counts.layers - layers * E * EXPERT, "nf4 leaves experts as they are"


def test_gpt_oss_by_hand() -> None:
    """Its experts have biases, and every second layer a window."""
    config = {"model_type": "gpt_oss", **SIZES, "head_dim": 8, "num_local_experts": E, "num_experts_per_tok": K,
              "intermediate_size": M, "sliding_window": 16, "num_hidden_layers": 2}  # fmt: skip
    shape = shape_from_config(config)
    counts = count_parameters(shape)
    expert = EXPERT + 2 * M + H
    attention = ATTENTION + (H + H) + H + 4  # biases of q, k, v and o, and a sink a head
    common = 2 * V * H + H + 2 * (attention + NORMS + E * H + E)
    assert (counts.total, counts.active) == (common + 2 * E * expert, common + 2 * K * expert)
    assert shape.attention_windows == (16, None) and shape.attended(100) == 116


def test_deepseek_v3_by_hand() -> None:
    """Latent attention, one dense layer, a shared expert."""
    config = {"model_type": "deepseek_v3", **SIZES, "num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 10,
              "qk_nope_head_dim": 6, "qk_rope_head_dim": 2, "v_head_dim": 4, "n_routed_experts": E, "n_group": 2,
              "topk_group": 1, "num_experts_per_tok": K, "moe_intermediate_size": M, "n_shared_experts": 1,
              "first_k_dense_replace": 1}  # fmt: skip
    shape = shape_from_config(config)
    counts = count_parameters(shape)
    attention = H * 12 + 12 + 12 * 4 * 8 + H * (10 + 2) + 10 + 10 * 4 * (6 + 4) + 4 * 4 * H
    common = 2 * V * H + H + L * (attention + NORMS) + 3 * H * F + 2 * (E * H + EXPERT)
    assert (counts.total, counts.active) == (common + 2 * E * EXPERT, common + 2 * K * EXPERT)
    assert shape.query_size == 4 * (8 + 4) / 2  # QK^T is 8 long, the product with the values 4


def test_flops_follow_the_active_parameters_and_memory_all_of_them() -> None:
    small = {"model_type": "mixtral", **SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
    large = small | {"num_local_experts": 16}
    few, many = recipe(small), recipe(large)
    routers = L * 12 * H
    more = flops_per_token(many, shape_of(many), recompute=False) - flops_per_token(few, shape_of(few), recompute=False)
    assert more == pytest.approx(6 * routers)
    weights = estimate_memory(many).weights - estimate_memory(few).weights
    assert weights == 4 * (L * 12 * 3 * H * F + routers)


def test_a_config_that_does_not_say_how_many_experts_a_token_uses_is_refused() -> None:
    config = {"model_type": "mixtral", **SIZES, "num_experts_per_tok": None}
    with pytest.raises(UserError, match="num_experts_per_tok"):
        count_parameters(shape_from_config(config))


# -- other layers -------------------------------------------------------------------------------------------------


def test_a_window_limits_attention() -> None:
    one = recipe(GEMMA3)
    shape = shape_of(one)
    assert shape.attention_windows == (16, 16, None)
    attention = 4 * shape.query_size * (16 + 16 + 128)
    assert flops_per_token(one, shape, recompute=False) == 6 * count_parameters(shape).multiplied + 3 * attention


@pytest.mark.parametrize(
    ("config", "attentions"),
    [
        ({"model_type": "mamba2", "vocab_size": V, "hidden_size": H, "num_hidden_layers": L, "num_heads": 8,
          "head_dim": 8, "state_size": 8, "n_groups": 1}, 0),
        ({"model_type": "qwen3_next", **SIZES, "head_dim": 8, "num_hidden_layers": 4, "linear_num_value_heads": 4,
          "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "num_experts": 4,
          "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}, 1),
        ({"model_type": "jamba", **SIZES, "num_hidden_layers": 8, "num_experts": 2, "mamba_d_state": 4}, 1),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)  # fmt: skip
def test_only_layers_with_attention_look_back(config: dict[str, Any], attentions: int) -> None:
    one = recipe(config)
    shape = shape_of(one)
    assert len(shape.attention_windows) == attentions
    attention = 4 * shape.query_size * attentions * 128
    assert flops_per_token(one, shape, recompute=False) == pytest.approx(
        6 * count_parameters(shape).multiplied + 3 * attention
    )


class GruConfig(PretrainedConfig):
    model_type = "planned_gru"

    hidden_size: int = H
    vocab_size: int = V


class GruForCausalLM(PreTrainedModel):
    """A model of somebody's own: no list of layers, no attention, a recurrence."""

    config_class = GruConfig

    def __init__(self, config: GruConfig) -> None:
        super().__init__(config)
        self.embedding = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.gru = torch.nn.GRU(config.hidden_size, config.hidden_size)
        self.head = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.head


def test_a_model_of_ones_own_without_layers_is_one_layer() -> None:
    AutoConfig.register(GruConfig.model_type, GruConfig, exist_ok=True)
    AutoModelForCausalLM.register(GruConfig, GruForCausalLM, exist_ok=True)
    one = recipe({"model_type": "planned_gru"})
    shape = shape_of(one)
    counts = count_parameters(shape)
    gru = 2 * 3 * (H * H + H)
    assert (counts.total, counts.layers, counts.multiplied) == (2 * V * H + V + gru, gru, V * H + V + gru)
    assert (shape.num_hidden_layers, shape.attention_windows) == (1, ())
    assert estimate_memory(one).activations > 0


def test_a_block_that_several_layers_share_is_held_once_and_multiplied_in_each() -> None:
    config = {"model_type": "zamba", **SIZES, "num_hidden_layers": 6, "num_key_value_heads": 4, "attn_layer_period": 3,
              "attn_layer_offset": 2, "n_mamba_heads": 2, "mamba_d_state": 4, "attention_head_dim": 16}  # fmt: skip
    counts = count_parameters(shape_from_config(config))
    assert counts.multiplied_in_layers > counts.layers


def test_a_vision_tower_is_held_and_not_multiplied() -> None:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8, "model_type": "siglip_vision_model"}  # fmt: skip
    whole = count_parameters(
        shape_from_config({"model_type": "gemma3", "text_config": GEMMA3, "vision_config": vision})
    )
    text = count_parameters(shape_from_config(GEMMA3))
    assert whole.total > text.total and whole.multiplied == text.multiplied


@pytest.mark.parametrize(
    "config",
    [
        # Without dropout in attention, which only the kernels of GPUs fuse
        GPT2 | {"n_positions": 128, "attn_pdrop": 0.0},
        GEMMA3,
        {"model_type": "mixtral", **SIZES},
        {"model_type": "phi3", **SIZES, "pad_token_id": 0},
        {"model_type": "llama", **SIZES, "intermediate_size": 192},
        {"model_type": "opt", "vocab_size": V, "hidden_size": 64, "ffn_dim": 256, "num_hidden_layers": L,
         "num_attention_heads": 4, "word_embed_proj_dim": 64},
    ],
    ids=lambda config: config["model_type"],
)  # fmt: skip
def test_activations_are_about_what_autograd_keeps(config: dict[str, Any]) -> None:
    """An estimate: from half to twice the truth, where the formula of known architectures is within a third."""
    larger = {"hidden_size": 64, "intermediate_size": 192, "vocab_size": 128, "n_embd": 64}
    config = {name: larger.get(name, value) for name, value in config.items()}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), attn_implementation="sdpa")
    model.train()
    one = recipe(config)
    shape = measured_shape(config)  # also of the Llama, whose table is not asked here
    assert 0.5 < layer_activations(shape, one) * L * 2 * 128 / saved_bytes(model) < 2


# -- where a shape is read -----------------------------------------------------------------------------------------


def based_on(path: str, **data: Any) -> Recipe:
    return Recipe.model_validate({"name": "x", "model": {"path": path}, "data": data})


def test_the_hubs_mirror_is_read(tmp_path: Path) -> None:
    place = tmp_path / "some" / "gpt"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(GPT2))
    assert shape_of(based_on("some/gpt", hub_mirror=str(tmp_path))).hidden_size == H
    with pytest.raises(UserError, match=r"run `agentforge download` on this recipe, or add .* configs/models"):
        shape_of(based_on("some/gpt"))


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_hubs_cache_is_where_huggingface_hub_has_it(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agentforge.planning.hub_reachable import hub_cache

    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROOT", str(tmp_path))
    monkeypatch.setenv(variable, "$ROOT/there")
    import importlib.util

    source = importlib.util.find_spec("huggingface_hub.constants")
    assert source is not None and source.loader is not None
    fresh = importlib.util.module_from_spec(source)  # a copy of its own: the real one has read the variables already
    source.loader.exec_module(fresh)
    assert hub_cache() == Path(fresh.HF_HUB_CACHE)
    place = hub_cache() / "models--some--gpt"
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc" / "config.json").write_text(json.dumps(GPT2))
    from huggingface_hub import try_to_load_from_cache

    assert try_to_load_from_cache("some/gpt", "config.json", cache_dir=fresh.HF_HUB_CACHE) is not None
    assert shape_of(based_on("some/gpt")).num_hidden_layers == L
