"""Memory against the tensors that a real model keeps for its backward pass, and against known cases."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from agentforge.planning.memory import estimate_memory, needs_gradient_checkpointing
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe

CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def recipe(method: str = "pretrain", lora: dict[str, Any] | None = None, hardware: str = "cpu", **args: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "hardware": hardware,
            "model": {"config": CONFIG, "dtype": "float32"},
            "data": {"max_length": 128},
            "train": {"method": method, "lora": lora, "args": {"per_device_train_batch_size": 2, **args}},
        }
    )


def saved_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of all tensors that autograd keeps of one forward pass, each storage once."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    ids = torch.arange(256).remainder(128).view(2, 128)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits
    assert hidden.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize(
    "lora", [None, {"r": 8, "target_modules": ALL, "lora_dropout": 0.1}, {"r": 8, "target_modules": ALL}]
)
def test_activations_are_about_what_autograd_keeps(lora: dict[str, Any] | None) -> None:
    fields = {key: value for key, value in CONFIG.items() if key != "model_type"}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **fields), attn_implementation="sdpa")
    model.train()
    if lora is not None:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    estimated = estimate_memory(recipe(lora=lora)).activations
    assert 0.75 < estimated / saved_bytes(model) < 1.33


def test_the_32b_on_an_h200() -> None:
    memory = estimate_memory(load_recipe("aj/sft"))
    gib = 2**30
    assert memory.weights == 2 * 32_763_876_352
    assert memory.adapters + memory.gradients + memory.optimizer == 16 * 536_870_912
    assert 75 * gib < memory.total() < 90 * gib
    assert memory.fits() and not memory.fits(gradient_checkpointing=False)


def test_the_32b_does_not_fit_an_h100() -> None:
    memory = estimate_memory(load_recipe("aj/sft", ["hardware=1xh100"]))
    assert not memory.fits(gradient_checkpointing=True)


def test_the_quantised_7b_fits_a_4090() -> None:
    memory = estimate_memory(load_recipe("aj/sft", profile="rtx4090"))
    # 6.5 billion weights in the layers at 4 bits; 1.1 billion in embeddings, head and norms, which peft casts to fp32
    assert memory.fits() and memory.weights == pytest.approx(6.525e9 * 0.516 + 1.09e9 * 4, rel=0.01)


def test_the_tiny_model_needs_no_recomputation() -> None:
    tiny = load_recipe("aj/tiny_base")
    assert not needs_gradient_checkpointing(tiny)
    assert estimate_memory(tiny).total() < 2 * 2**30


def test_the_plan_recomputes_only_where_it_must() -> None:
    lora = {"r": 64, "target_modules": ALL}
    base = {"path": "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"}
    large = recipe("sft", lora, "1xh200").model_dump() | {"model": base, "data": {"max_length": 2048}}
    assert estimate_memory(Recipe.model_validate(large)).recomputes
    assert not estimate_memory(Recipe.model_validate(large | {"data": {"max_length": 256}})).recomputes


def test_an_unknown_shape_recomputes_to_be_safe() -> None:
    unknown = Recipe.model_validate({"name": "x", "model": {"path": "nobody/knows"}})
    assert needs_gradient_checkpointing(unknown)


def test_ddp_repeats_and_fsdp_divides() -> None:
    eight = load_recipe("aj/sft", profile="8xh200")
    one, plain, sharded = (
        estimate_memory(load_recipe("aj/sft")),
        estimate_memory(eight),
        estimate_memory(eight, "fsdp2"),
    )
    assert plain.weights == one.weights and plain.gradients == 2 * one.gradients
    assert sharded.weights == one.weights / 8 and sharded.optimizer == one.optimizer / 8
    assert sharded.activations == plain.activations


@pytest.mark.parametrize(
    ("variables", "sharded"),
    [
        ({}, False),
        ({"ACCELERATE_USE_FSDP": "true"}, True),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}, False),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, True),
    ],
)
def test_the_launcher_decides_on_sharding(
    variables: dict[str, str], sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    eight = load_recipe("aj/sft", profile="8xh200")
    assert (estimate_memory(eight).weights < 2 * 32_763_876_352) is sharded


def test_full_training_holds_16_bytes_a_parameter() -> None:
    memory = estimate_memory(recipe())
    assert memory.adapters == 0
    assert memory.weights + memory.gradients + memory.optimizer == 4 * memory.weights


def test_sft_never_holds_more_logits_than_a_tile() -> None:
    assert estimate_memory(load_recipe("aj/sft")).logits == 2 * 2**30
    assert estimate_memory(load_recipe("aj/sft", ["train.method=dpo", "train.args={}"])).logits > 2 * 2**30
