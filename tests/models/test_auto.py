"""Adamba where the package makes and opens models: the fast class, by recipe and by checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, FalconH1Config, FalconH1ForCausalLM

from agentforge.errors import UserError
from agentforge.export.agreement import ComparisonPlace
from agentforge.export.agreement import load_model as load_to_compare
from agentforge.models.build import add_lora, build_model, from_scratch, load_model
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Model
from agentforge.rollouts.policies.transformers_policy import load_weights
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM, AdambaModel
from agentforge.trainers.batching import choose_packing

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
}


def recipe(**fields: Any) -> Model:
    return Model(config={"model_type": "adamba"} | SIZES | fields)


@pytest.mark.parametrize("switch", [{}, {"qk_norm": True}], ids=["plain", "switched"])
def test_a_recipes_adamba_is_made_trained_and_opened_as_one(tmp_path: Path, switch: dict[str, Any]) -> None:
    made = from_scratch(recipe(**switch), 64, seed=0)
    assert isinstance(made, AdambaForCausalLM)
    made.save_pretrained(tmp_path)
    ids = torch.arange(20)[None]
    path = Model(path=str(tmp_path))
    opened = [
        build_model(path, 64, seed=0, train_all=True),
        load_model(path, dtype=torch.float32),
        load_to_compare(tmp_path, ComparisonPlace("cpu", torch.float32)),
        load_weights(ModelLocation("hf", str(tmp_path), "x")),
    ]
    for model in opened:
        assert isinstance(model, AdambaForCausalLM)
        assert torch.equal(model.eval()(ids).logits, made.eval()(ids).logits)


def test_a_falcon_h1_that_is_no_adamba_stays_transformers_own(tmp_path: Path) -> None:
    FalconH1ForCausalLM(FalconH1Config(vocab_size=64, pad_token_id=None, **SIZES)).save_pretrained(tmp_path)
    assert type(load_model(Model(path=str(tmp_path)), dtype=torch.float32)) is FalconH1ForCausalLM


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"qk_nrm": True}, "has no field 'qk_nrm'; did you mean 'qk_norm'"),
        ({"mlp": "relu"}, r"model\.config\.mlp is 'relu'; it must be one of gated, relu2"),
        ({"hidden_size": "x"}, r"model\.config\.hidden_size is 'x'; it must be a whole number"),
        ({"mamba_rms_norm": True}, "mamba_rms_norm: an Adamba cannot have it"),
        ({"mamba_n_heads": 3}, "mamba_n_heads is 3; it must divide mamba_d_ssm"),
    ],
)
def test_a_config_that_makes_no_model_is_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        from_scratch(recipe(**fields), 64, seed=0)
    assert "\n" not in str(error.value)


def test_documents_are_not_packed() -> None:
    model = from_scratch(recipe(), 64, seed=0)
    assert choose_packing(model, None) is False
    with pytest.raises(UserError, match="adamba cannot be packed"):
        choose_packing(model, True)


@pytest.mark.parametrize("switch", [{}, {"logit_softcap": 15.0, "embedding_norm": True}], ids=["plain", "switched"])
def test_the_auto_classes_know_an_adamba(tmp_path: Path, switch: dict[str, Any]) -> None:
    ids = torch.arange(20)[None]
    made = from_scratch(recipe(**switch), 64, seed=0).eval()
    made.save_pretrained(tmp_path)
    wanted = made.model(ids).last_hidden_state
    assert type(AutoModel.from_config(made.config)) is AdambaModel
    assert type(AutoModelForCausalLM.from_config(made.config)) is AdambaForCausalLM
    if switch:  # a plain one is a FalconH1 in its file
        assert type(AutoConfig.from_pretrained(tmp_path)) is AdambaConfig
        assert type(AutoModel.from_pretrained(tmp_path)) is AdambaModel
    for opened in (AutoModel.from_pretrained(tmp_path), AdambaModel.from_pretrained(tmp_path)):
        torch.testing.assert_close(opened.eval()(ids).last_hidden_state, wanted, rtol=1e-5, atol=1e-5)


def test_lora_leaves_dropped_attention_out_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for targets, more in (
        (["q_proj", "o_proj", "in_proj"], {}),
        ("all-linear", {"exclude_modules": ["out_proj"]}),
        (r".*\.(q|k)_proj", {"exclude_modules": r".*\.k_proj"}),
    ):
        model = from_scratch(recipe(dropped_attention=[1]), 64, seed=0)
        with caplog.at_level("INFO"):
            adapted = add_lora(model, {"r": 2, "target_modules": targets, **more}, seed=0)
        assert "LoRA skips the attention of layers 1, because it is dropped" in caplog.text
        names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
        assert any("layers.0.self_attn.q_proj" in name for name in names)
        assert not any("layers.1.self_attn" in name or "out_proj" in name for name in names)
        adapted(torch.arange(20)[None], labels=torch.arange(20)[None]).loss.backward()
        assert all(parameter.grad is not None for parameter in adapted.parameters() if parameter.requires_grad)
    model = from_scratch(recipe(dropped_attention=[0, 1]), 64, seed=0)
    with pytest.raises(UserError, match=r"every q_proj is in attention that is dropped \(layers 0, 1\)"):
        add_lora(model, {"r": 2, "target_modules": ["q_proj"]}, seed=0)
