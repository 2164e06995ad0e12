"""A graft computes what its base computes, to the last bit; what it could not is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import FalconH1ForCausalLM, MistralConfig, MistralForCausalLM

from agentforge.errors import CheckRefused, UserError
from agentforge.systems.adamba.surgery.graft import MambaSizes, graft
from agentforge.systems.adamba.surgery.proof import load, logits_of, random_rows
from tests.systems.adamba.checkpoints import VOCABULARY, llama, loud, save

SIZES = MambaSizes(d_state=4, chunk=16)


def grafted(base: Path, target: Path, sizes: MambaSizes = SIZES, seed: int = 3) -> Path:
    target.mkdir()
    graft(base, target, sizes, seed)
    return target


def edit(base: Path, **fields: Any) -> Path:
    path = base / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return base


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"head_dim": 32, "rms_norm_eps": 1e-5},
        {
            "rope_parameters": {
                **{"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0},
                **{"high_freq_factor": 4.0, "original_max_position_embeddings": 64},
            }
        },
    ],
    ids=["plain", "wide-heads", "llama3-rope"],
)
def test_logits_are_equal_to_the_last_bit(tmp_path: Path, tied: bool, fields: dict[str, Any]) -> None:
    base = llama(tmp_path / "base", tied=tied, **fields)
    model = load(grafted(base, tmp_path / "graft"))
    assert type(model) is FalconH1ForCausalLM
    rows = random_rows(VOCABULARY, seed=1)
    assert all(map(torch.equal, logits_of(load(base), rows), logits_of(model, rows)))
    mixer = model.model.layers[1].mamba
    assert not mixer.out_proj.weight.any()
    assert mixer.in_proj.weight.any()
    assert mixer.num_heads * mixer.head_dim == 64
    time_steps = torch.nn.functional.softplus(mixer.dt_bias)
    assert 9e-4 < time_steps.min() < time_steps.max() < 0.11
    assert not torch.equal(mixer.in_proj.weight, model.model.layers[0].mamba.in_proj.weight)


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    save(load(base, torch.bfloat16), base)
    model = FalconH1ForCausalLM.from_pretrained(grafted(base, tmp_path / "graft"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_mistral_without_a_window(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=VOCABULARY, num_key_value_heads=2, sliding_window=None, **sizes)
    base = save(loud(MistralForCausalLM(config)), tmp_path / "base")
    rows = random_rows(VOCABULARY, seed=1)
    model = load(grafted(base, tmp_path / "graft"))
    assert all(map(torch.equal, logits_of(load(base), rows), logits_of(model, rows)))
    edit(base, sliding_window=16)
    with pytest.raises(UserError, match=r"a sliding window .*cannot hold exactly"):
        grafted(base, tmp_path / "other")


def test_the_sizes_of_the_mixers_can_be_chosen_and_the_seed_decides_their_values(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    chosen = MambaSizes(heads=3, d_head=8, d_state=16, d_conv=2, chunk=32)
    one, two, other = (
        load_file(grafted(base, tmp_path / name, chosen, seed) / "model.safetensors")
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    name = "model.layers.0.mamba.in_proj.weight"
    assert one[name].shape == (2 * 24 + 2 * 16 + 3, 64)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one[name], other[name])
    with pytest.raises(UserError, match="heads of 24 do not fill hidden_size 64"):
        grafted(base, tmp_path / "odd", MambaSizes(d_head=24))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"attention_bias": True}, r"biases in its attention \(attention_bias"),
        ({"mlp_bias": True}, "biases in its MLP"),
        ({"hidden_act": "gelu"}, "hidden_act gelu"),
        ({"model_type": "qwen2"}, "a qwen2, which has biases on queries, keys and values"),
        ({"model_type": "qwen3"}, "norms on queries and keys"),
        ({"model_type": "bert"}, "is a bert, which is not known here; use a llama"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
    ],
)
def test_what_falcon_h1_cannot_hold_is_refused(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    base = edit(llama(tmp_path / "base"), **fields)
    with pytest.raises(UserError, match=says):
        grafted(base, tmp_path / "graft")


def test_tensors_must_be_those_of_the_config(tmp_path: Path) -> None:
    base = llama(tmp_path / "base")
    file = base / "model.safetensors"
    tensors = load_file(file)

    def refused(changed: dict[str, torch.Tensor], says: str) -> None:
        save_file(changed, file)
        with pytest.raises(CheckRefused, match=says):
            grafted(base, tmp_path / str(len(list(tmp_path.iterdir()))))

    norm = "model.layers.1.post_attention_layernorm.weight"
    refused(tensors | {"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}, "has unknown .*q_norm")
    refused({name: tensor for name, tensor in tensors.items() if name != norm}, f"lacks {norm}")
    refused(tensors | {norm: torch.ones(65)}, r"is \(65,\), but its config asks for \(64,\)")
    refused({name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}, "is not tied")
    edit(base, tie_word_embeddings=True)
    refused(tensors, "ties lm_head.weight to model.embed_tokens.weight, but the file has a different")
    # a tied model whose file has the head once more, and buffers of older releases, is the same model
    inverse = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(8) for n in range(2)}
    save_file(tensors | inverse | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    assert load(grafted(base, tmp_path / "fine")).config.tie_word_embeddings
