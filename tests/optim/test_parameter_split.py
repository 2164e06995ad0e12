"""What goes to Muon, for models of many kinds; and fused matrices lie as `fused_matrices` says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from agentforge.errors import UserError
from agentforge.models.build import add_lora
from agentforge.optim.fused_matrices import LAYOUTS, Blocks, blocks_of
from agentforge.optim.parameter_split import FUSED, split_parameters

IDS = torch.randint(2, 60, (1, 9), generator=torch.Generator().manual_seed(0))
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def model(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **changes, **SPECIAL)).eval()


FUSED_MODELS: list[tuple[str, str, dict[str, Any]]] = [
    ("gpt2", "c_attn", GPT2),
    ("gpt_neox", "query_key_value", SIZES),
    ("bloom", "query_key_value", {"vocab_size": 64, "hidden_size": 32, "n_layer": 1, "n_head": 4}),
    ("falcon", "query_key_value", SIZES | {"multi_query": True, "new_decoder_architecture": False}),
    ("falcon", "query_key_value", SIZES | {"multi_query": False, "new_decoder_architecture": False}),
    ("falcon", "query_key_value", SIZES | {"num_kv_heads": 2, "new_decoder_architecture": True}),
    ("mpt", "Wqkv", {"vocab_size": 64, "d_model": 32, "n_layers": 1, "n_heads": 4, "max_seq_len": 32}),
    ("phi3", "qkv_proj", SIZES | {"num_key_value_heads": 2}),
]


def fused(made: Any, name: str) -> tuple[Any, Blocks, torch.Tensor]:
    module = next(module for path, module in made.named_modules() if path.rpartition(".")[2] == name)
    if module.bias is not None:
        module.bias.data.zero_()
    module.weight.data.mul_(20)  # so that attention is far from uniform
    blocks = blocks_of(made.config, name, module.weight)
    assert blocks is not None
    return module, blocks, module.weight.detach().clone()


def changed(made: Any, module: Any, blocks: Blocks, weight: torch.Tensor, **new: torch.Tensor) -> torch.Tensor:
    """Return the logits with some of the blocks replaced."""
    parts = dict(zip("qkv", blocks.apart(weight), strict=True)) | new
    module.weight.data = blocks.together(list(parts.values())).contiguous()
    with torch.no_grad():
        logits: torch.Tensor = made(input_ids=IDS).logits
    return logits


@pytest.mark.parametrize(("kind", "name", "config"), FUSED_MODELS)
def test_a_layout_is_proved_on_the_running_model(kind: str, name: str, config: dict[str, Any]) -> None:
    made = model(kind, **config)
    module, blocks, weight = fused(made, name)
    q, k, v = blocks.apart(weight)
    assert torch.equal(blocks.together([q, k, v]), weight)

    def run(**new: torch.Tensor) -> torch.Tensor:
        return changed(made, module, blocks, weight, **new)

    silent = run(v=torch.zeros_like(v))
    # Without values, neither queries nor keys matter: v holds all of the values.
    assert torch.allclose(run(v=torch.zeros_like(v), q=q + 1, k=k - 1), silent, atol=1e-5)
    # Without queries, keys do not matter, and without keys queries do not: each holds nothing of the other.
    assert torch.allclose(run(q=torch.zeros_like(q), k=k + 1), run(q=torch.zeros_like(q)), atol=1e-5)
    assert torch.allclose(run(k=torch.zeros_like(k), q=q + 1), run(k=torch.zeros_like(k)), atol=1e-5)
    # And each of them does something.
    for part in (run(q=-q), run(k=-k), run(v=-v)):
        assert not torch.allclose(part, run(), atol=1e-3)


@pytest.mark.parametrize("kind", ["phi3", "glm", "glm4"])
def test_gate_and_up_projection_are_halves(kind: str) -> None:
    made = model(kind, **SIZES, **({} if kind == "phi3" else {"head_dim": 8, "num_key_value_heads": 2}))
    module = next(m for path, m in made.named_modules() if path.endswith("gate_up_proj"))
    blocks = blocks_of(made.config, "gate_up_proj", module.weight)
    assert blocks is not None and blocks.sizes == (48, 48)
    with torch.no_grad():
        for half in (0, 1):  # silu(0) * up and silu(gate) * 0 are both 0, whatever the other half is
            parts = blocks.apart(module.weight.clone())
            parts[half].zero_()
            module.weight.data = blocks.together(parts)
            one = made(input_ids=IDS).logits
            parts[1 - half] = parts[1 - half] + 1
            module.weight.data = blocks.together(parts)
            assert torch.allclose(made(input_ids=IDS).logits, one, atol=1e-5)


def test_every_layout_is_tested() -> None:
    tested = {(kind, name) for kind, name, _ in FUSED_MODELS} | {(k, "gate_up_proj") for k in ("phi3", "glm", "glm4")}
    assert tested == set(LAYOUTS)


def test_a_llama_has_its_projections_trained_by_muon_and_nothing_else() -> None:
    made = model("llama", **SIZES)
    split = split_parameters(made)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    hidden = {names[id(parameter)].split(".")[-2] for parameter in split.hidden}
    assert hidden == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {names[id(p)] for p in split.decayed} == {"model.embed_tokens.weight", "lm_head.weight"}
    assert all(parameter.ndim == 1 for parameter in split.undecayed)


def test_an_unknown_fused_layout_is_left_to_adamw(caplog: pytest.LogCaptureFixture) -> None:
    config = {"vocab_size": 64, "n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4}
    made = model("codegen", **config)
    split = split_parameters(made)
    assert split.reasons[FUSED] == ["transformer.h.0.attn.qkv_proj.weight"]
    split.log()
    assert "mugrokfast leaves qkv_proj to AdamW: how their parts lie in them is not known" in caplog.text


def test_routers_and_experts_are_left_to_adamw() -> None:
    made = model("mixtral", **SIZES, num_key_value_heads=2, num_local_experts=4)
    split = split_parameters(made)
    left = {name.partition("layers.0.")[2] for names in split.reasons.values() for name in names}
    assert "mlp.gate.weight" in left and "mlp.experts.gate_up_proj" in left


def test_frozen_parameters_and_named_ones_are_kept_from_muon() -> None:
    made = model("llama", **SIZES)
    made.model.layers[0].mlp.requires_grad_(False)
    split = split_parameters(made, ["*.o_proj.*"])
    assert len(split.hidden) == 3
    with pytest.raises(UserError, match=r"'\*\.x_proj\.\*' fits no trained parameter"):
        split_parameters(made, ["*.x_proj.*"])


def test_adapters_are_refused_with_the_reason() -> None:
    made = add_lora(model("llama", **SIZES), {"r": 4, "target_modules": ["q_proj"]}, seed=0)
    with pytest.raises(UserError, match="does not train LoRA: Muon bounds how far a weight moves, but with B A"):
        split_parameters(made)


def test_a_model_without_matrices_is_refused() -> None:
    with pytest.raises(UserError, match="finds no hidden matrix"):
        split_parameters(torch.nn.LayerNorm(4))
