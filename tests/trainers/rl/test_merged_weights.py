"""What a sampler is given: the merged weights as a copy. The weights that are trained stay as they are, bit by bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, PreTrainedModel

from agentforge.errors import UserError
from agentforge.models.build import add_lora
from agentforge.trainers.rl.merged_weights import announced, merged, plain_weights
from tests.trainers.rl.fake_vllm import free_port
from tests.trainers.tiny import LORA

EVERYTHING = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj", "embed_tokens"]}


def base(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)  # type: ignore[no-any-return]


def with_adapter(model: PreTrainedModel, options: dict[str, Any]) -> PeftModel:
    adapted = get_peft_model(model, LoraConfig(**options))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return adapted  # type: ignore[return-value]


def test_a_sync_leaves_every_bit_of_a_bf16_base_where_it_is(toy_base: Path) -> None:
    model = with_adapter(base(toy_base, torch.bfloat16), EVERYTHING)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for _ in range(3):
        assert dict(merged(plain_weights(model), torch.bfloat16))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    model.merge_adapter()  # what TRL and PEFT do instead
    model.unmerge_adapter()
    assert not all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_what_is_sent_is_the_merged_checkpoint(toy_base: Path) -> None:
    model = with_adapter(base(toy_base), EVERYTHING)
    sent = dict(merged(plain_weights(model), torch.float32))
    expected = dict(model.merge_and_unload().named_parameters())
    assert sent.keys() == expected.keys()
    for name, weight in sent.items():
        torch.testing.assert_close(weight, expected[name].detach(), rtol=1e-5, atol=1e-6)


def test_a_bf16_weight_is_rounded_once(toy_base: Path) -> None:
    model = with_adapter(base(toy_base, torch.bfloat16), LORA)
    name = "model.layers.0.self_attn.q_proj"
    layer: Any = model.get_submodule(f"base_model.model.{name}")
    first, second = layer.lora_A["default"].weight.float(), layer.lora_B["default"].weight.float()
    exact = layer.base_layer.weight.float() + second @ first * layer.scaling["default"]
    sent = dict(merged(plain_weights(model), torch.bfloat16))[f"{name}.weight"]
    assert torch.equal(sent, exact.to(torch.bfloat16))


def test_modules_that_are_saved_whole_are_sent_and_the_critic_is_not(toy_base: Path) -> None:
    model = with_adapter(base(toy_base), LORA | {"modules_to_save": ["norm"]})
    model.add_module("value_head", nn.Linear(2, 1))
    with torch.no_grad():
        model.get_submodule("base_model.model.model.norm.modules_to_save.default").weight.fill_(7.0)  # type: ignore[operator,union-attr]
    weights = plain_weights(model, ("value_head",))
    sent = dict(merged(weights, torch.float32))
    assert sent.keys() == dict(base(toy_base).named_parameters()).keys()
    assert (sent["model.norm.weight"] == 7).all()
    assert announced(weights, torch.bfloat16) == [(n, "bfloat16", list(w.shape)) for n, w in sent.items()]


@pytest.mark.parametrize("odd", [{"use_dora": True}, {"lora_bias": True}])
def test_an_adapter_of_another_form_is_refused(toy_base: Path, odd: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"adapter of model\.layers\.0\.self_attn\.q_proj is not a plain LoRA"):
        plain_weights(with_adapter(base(toy_base), LORA | odd))


@pytest.fixture
def one_process() -> Iterator[None]:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_weights_that_fsdp2_holds_are_gathered_one_by_one(toy_base: Path) -> None:
    model = with_adapter(base(toy_base), EVERYTHING)
    whole = dict(merged(plain_weights(model), torch.float32))
    mesh = init_device_mesh("cpu", (1,))
    for layer in model.get_submodule("base_model.model.model.layers"):  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    weights = plain_weights(model)
    assert all(type(weight.parameter.data).__name__ == "DTensor" for weight in weights)
    assert [shape for _, _, shape in announced(weights, torch.float32)] == [list(w.shape) for w in whole.values()]
    for name, weight in merged(weights, torch.float32):
        torch.testing.assert_close(weight, whole[name])


def test_the_seed_is_set_before_the_matrices_are_made(toy_base: Path) -> None:
    made = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        torch.rand(noise + 1)  # whatever was drawn before
        model = add_lora(base(toy_base), LORA, seed=42)
        made.append({n: p.detach().clone() for n, p in model.named_parameters() if ".lora_A." in n})
    assert made[0] and all(torch.equal(weight, made[1][name]) for name, weight in made[0].items())
    other = add_lora(base(toy_base), LORA, seed=43)
    assert not any(torch.equal(p, made[0][n]) for n, p in other.named_parameters() if n in made[0])
