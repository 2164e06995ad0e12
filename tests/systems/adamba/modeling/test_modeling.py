"""An Adamba against transformers' FalconH1 with the same weights: logits, gradients, padding, cache, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, FalconH1Config, FalconH1ForCausalLM

import agentforge.systems.adamba.auto  # noqa: F401  makes AutoModelForCausalLM know the type
from agentforge.errors import UserError
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.mixer import AdambaMixer, fresh_mamba
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape, resized

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "mamba_d_ssm": 48,
    "mamba_n_heads": 6,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_chunk_size": 16,
    "pad_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_in_multiplier": 1.1,
    "attention_out_multiplier": 0.8,
    "ssm_in_multiplier": 0.7,
    "ssm_out_multiplier": 0.9,
    "ssm_multipliers": [0.5, 0.8, 1.0, 1.2, 0.9],
    "mlp_multipliers": [0.9, 0.7],
    "key_multiplier": 0.6,
    "lm_head_multiplier": 0.5,
}
VARIANTS = {
    "plain": {},
    "multipliers": MULTIPLIERS,
    "groups and biases": {"mamba_n_groups": 2, "mamba_proj_bias": True, "attention_bias": True, "mlp_bias": True},
    "no convolution bias": {"mamba_conv_bias": False, "projectors_bias": True},
}


def adamba(**fields: Any) -> AdambaForCausalLM:
    torch.manual_seed(0)
    model = AdambaForCausalLM(AdambaConfig(**(SIZES | fields)))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def plain(model: AdambaForCausalLM) -> FalconH1ForCausalLM:
    """transformers' own model of the same weights."""
    fields = {name: value for name, value in model.config.to_dict().items() if name != "model_type"}
    twin = FalconH1ForCausalLM(FalconH1Config(**fields))
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def assert_same(found: Tensor, wanted: Tensor, share: float = 1e-5) -> None:
    """Differences are measured by the largest entry."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=share * wanted.abs().max().item())


def tokens(rows: int = 2, length: int = 70) -> Tensor:
    return torch.randint(0, SIZES["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def model(request: pytest.FixtureRequest) -> AdambaForCausalLM:
    return adamba(**request.param)


def test_logits_and_gradients_are_transformers(model: AdambaForCausalLM) -> None:
    ids = tokens()
    outputs = [each(ids, labels=ids) for each in (model, plain(model))]
    assert_same(outputs[0].logits, outputs[1].logits)
    twin = plain(model)
    gradients = [
        torch.autograd.grad(each.train()(ids, labels=ids).loss, list(each.parameters())) for each in (model, twin)
    ]
    model.eval()
    for (name, _), found, wanted in zip(model.named_parameters(), *gradients, strict=True):
        assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max() + 1e-9, name


def test_the_hidden_states_of_all_layers_can_be_had(model: AdambaForCausalLM) -> None:
    found, wanted = (each(tokens(), output_hidden_states=True).hidden_states for each in (model, plain(model)))
    assert len(found) == len(wanted) == SIZES["num_hidden_layers"] + 1
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(model: AdambaForCausalLM) -> None:
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :9], mask[1, -7:] = 0, 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = model(ids, attention_mask=mask, position_ids=positions).logits
    assert_same(padded[:1, 9:], model(ids[:1, 9:]).logits)
    assert_same(padded[1:, :-7], model(ids[1:, :-7]).logits)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 70, [33, 1, 1, 35], [1, 2, 3, 64], [70], [2, 68]])
def test_a_sequence_in_pieces_is_the_sequence(model: AdambaForCausalLM, pieces: list[int]) -> None:
    ids, cache = tokens(), DynamicCache(config=model.config)
    parts = [model(piece, past_key_values=cache, use_cache=True).logits for piece in ids.split(pieces, dim=1)]
    assert_same(torch.cat(parts, 1), model(ids).logits)


@torch.no_grad()
def test_generation_is_transformers(model: AdambaForCausalLM) -> None:
    ids = tokens(length=12)
    mask = torch.ones_like(ids)
    if not model.config.mamba_proj_bias:  # transformers lets the bias of padding into the convolution
        mask[0, :4] = 0
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "attention_mask": mask}
    assert torch.equal(*(each.generate(ids, **options) for each in (model, plain(model))))


def test_double_precision_is_kept() -> None:
    """transformers' own scan falls back to fp32; only the norms are left to do so here."""
    model = adamba().double()
    mixer: AdambaMixer = model.model.layers[0].mamba
    given = torch.randn(1, 40, SIZES["hidden_size"], dtype=torch.float64)
    cache = DynamicCache(config=model.config)
    steps = [mixer(given[:, t : t + 1], cache_params=cache) for t in range(40)]
    assert_same(torch.cat(steps, 1), mixer(given), 1e-12)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_half_precision_trains_on_the_same_gradient(how: str) -> None:
    model, ids = adamba().train(), tokens()
    wanted = torch.autograd.grad(model(ids, labels=ids).loss, list(model.parameters()))
    model = model.bfloat16() if how == "weights" else model
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        loss = model(ids, labels=ids).loss
    found = torch.autograd.grad(loss, list(model.parameters()))
    cosine = torch.nn.functional.cosine_similarity(
        *(torch.cat([g.float().ravel() for g in gs]) for gs in (found, wanted)), dim=0
    )
    assert cosine > 0.995


def test_recomputed_activations_give_the_same_gradients() -> None:
    model, ids = adamba().train(), tokens()
    wanted = torch.autograd.grad(model(ids, labels=ids).loss, list(model.parameters()))
    model.gradient_checkpointing_enable()
    found = torch.autograd.grad(model(ids, labels=ids).loss, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# ---- dropped attention


def test_dropped_attention_is_not_called_and_changes_nothing() -> None:
    model = adamba(dropped_attention=[0, 2])
    twin, called = plain(model), []
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.register_forward_hook(lambda *_, number=number: called.append(number))
    ids = tokens()
    with torch.no_grad():
        assert_same(model(ids).logits, twin(ids).logits)
        assert called == [1]
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
        assert torch.equal(model.generate(ids, **options), twin.generate(ids, **options))
    assert set(called) == {1}


# ---- files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adamba")
    model = adamba(exit_layers=[1, 2], **MULTIPLIERS)
    wide = resized(model.config, AdambaShape(48, 4, 2, 96, 8, 4))
    AdambaForCausalLM(wide).save_pretrained(directory)
    torch.save(AdambaForCausalLM.from_pretrained(directory).eval()(tokens()).logits, directory / "logits.pt")
    return directory


def test_what_is_saved_is_a_falcon_h1_to_transformers_alone(saved: Path) -> None:
    """In a process that has never heard of this package; it saves the checkpoint again."""
    code = f"""
import sys, torch
from transformers import AutoModelForCausalLM
model, report = AutoModelForCausalLM.from_pretrained({str(saved)!r}, output_loading_info=True)
assert type(model).__name__ == "FalconH1ForCausalLM", type(model)
assert not any(report.values()), report
ids = torch.randint(0, 64, (2, 70), generator=torch.Generator().manual_seed(1))
torch.save(model.eval()(ids).logits, {str(saved / "plain.pt")!r})
model.save_pretrained({str(saved / "again")!r})
assert not any(name.startswith("agentforge") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    logits = torch.load(saved / "logits.pt")
    assert_same(torch.load(saved / "plain.pt"), logits)
    assert json.loads((saved / "again/config.json").read_text()) == json.loads((saved / "config.json").read_text())
    again = AdambaForCausalLM.from_pretrained(saved / "again").eval()
    assert torch.equal(again(tokens()).logits, logits)


def test_the_config_comes_back_whole(saved: Path) -> None:
    written = json.loads((saved / "config.json").read_text())
    assert written["model_type"] == "falcon_h1"
    assert written["architectures"] == ["FalconH1ForCausalLM"]
    assert not {"mlp", "norm_weights", "qk_norm"} & set(written)
    config = AdambaForCausalLM.from_pretrained(saved).config
    assert (config.base_hidden_size, config.hidden_size, config.exit_layers) == (32, 48, [1, 2])
    assert config.base_rms_norm_eps == 1e-5 != config.rms_norm_eps
    assert config.base_multipliers["mlp_multipliers"] == MULTIPLIERS["mlp_multipliers"] != config.mlp_multipliers


def test_any_falcon_h1_is_an_adamba(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    fields = {name: value for name, value in SIZES.items() if name != "head_dim"}
    model = FalconH1ForCausalLM(FalconH1Config(**fields)).eval()
    model.save_pretrained(tmp_path)
    opened = AdambaForCausalLM.from_pretrained(tmp_path).eval()
    assert_same(opened(tokens()).logits, model(tokens()).logits)
    assert opened.config.head_dim == 16
    assert "model of type" not in caplog.text


def test_a_switch_makes_the_checkpoint_an_adambas(tmp_path: Path) -> None:

    model = adamba(logit_softcap=15.0, mlp="relu2")
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["model_type"], written["architectures"]) == ("adamba", ["AdambaForCausalLM"])
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(opened, AdambaForCausalLM)
    assert torch.equal(opened(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads(tmp_path: Path, tied: bool) -> None:
    model = adamba(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    assert ("lm_head.weight" in load_file(tmp_path / "model.safetensors")) is not tied
    assert torch.equal(AdambaForCausalLM.from_pretrained(tmp_path).eval()(tokens()).logits, model(tokens()).logits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mamba_rms_norm": True}, "mamba_rms_norm: its norm couples all Mamba heads"),
        ({"exit_layers": [3]}, "exit_layers: 3 is not among 1 to 2"),
        ({"dropped_attention": [0, 3]}, "dropped_attention: 3 is not among 0 to 2"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdambaConfig(**(SIZES | fields))


# ---- initialisation


def test_a_fresh_mixer_starts_as_mamba_ssm_does() -> None:
    torch.manual_seed(0)
    wide = SIZES | {"mamba_n_heads": 512, "mamba_d_ssm": 512 * 8}
    for mixer in (layer.mamba for layer in AdambaForCausalLM(AdambaConfig(**wide)).model.layers):
        dt = torch.nn.functional.softplus(mixer.dt_bias)
        assert dt.min() > 0.99e-3 and dt.max() < 1.01e-1
        assert dt.log().median().exp().item() == pytest.approx(1e-2, rel=0.2)  # log-uniform
        A = mixer.A_log.exp()
        assert A.min() >= 1 and A.max() <= 16.001 and A.median().item() == pytest.approx(8.5, rel=0.1)
        assert torch.equal(mixer.D, torch.ones(512))
        assert mixer.conv1d.weight.abs().max() <= 0.5 and mixer.conv1d.weight.std().item() == pytest.approx(
            0.289, rel=0.1
        )


def test_initialisation_follows_its_generator_and_leaves_the_output() -> None:
    mixer = adamba().model.layers[0].mamba
    first, again, other = (fresh_mamba(mixer, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["dt_bias"], other["dt_bias"])
    assert {name for name, _ in mixer.named_parameters()} - set(first) == {"out_proj.weight"}


def test_packed_documents_are_refused_by_the_layer() -> None:
    ids = tokens()
    with pytest.raises(UserError, match="packed documents cannot be kept apart"):
        adamba()(ids, seq_idx=torch.zeros_like(ids))
