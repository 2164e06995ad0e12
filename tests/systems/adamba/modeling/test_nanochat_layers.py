"""With its switches on an Adamba without Mamba computes what transformers' NanoChat does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, NanoChatConfig, NanoChatForCausalLM

from agentforge.systems.adamba.modeling.configuration import SWITCHES, AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape, index_of, put, resized
from tests.systems.adamba.checkpoints import NANOCHAT

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
NAMES = {"mlp.fc1": "feed_forward.up_proj", "mlp.fc2": "feed_forward.down_proj"}


def nanochat() -> NanoChatForCausalLM:
    torch.manual_seed(0)
    model = NanoChatForCausalLM(NanoChatConfig(**SIZES)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # logits in the tens, where the cap bends them
    return model


def grafted(base: NanoChatForCausalLM, **changes: Any) -> AdambaForCausalLM:
    """The base's weights, with Mamba layers that write nothing."""
    model = AdambaForCausalLM(AdambaConfig(**(SIZES | MAMBA | NANOCHAT | changes))).eval()
    weights = {
        name.replace(old, new): value
        for old, new in [*NAMES.items(), ("", "")]
        for name, value in base.state_dict().items()
        if (old and old in name) or (not old and "mlp" not in name)
    }
    report = model.load_state_dict(weights, strict=False)
    assert not report.unexpected_keys
    if not changes:
        assert all(".mamba." in name for name in report.missing_keys)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mamba.out_proj.weight)
    return model


IDS = torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_logits_are_nanochats() -> None:
    base = nanochat()
    wanted = base(IDS).logits
    assert wanted.abs().max() > 5
    assert (grafted(base)(IDS).logits - wanted).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(set(SWITCHES) - {"norm_weights"}))
def test_each_switch_does_something(name: str) -> None:
    base = nanochat()
    if name == "mlp":
        torch.nn.init.normal_((other := grafted(base, mlp="gated")).model.layers[0].feed_forward.gate_proj.weight)
    else:
        other = grafted(base, **{name: SWITCHES[name]})
    assert (other(IDS).logits - base(IDS).logits).abs().max() > 1e-2


def test_without_norm_weights_there_are_none_to_train() -> None:
    names = [name for name, _ in grafted(nanochat()).named_parameters()]
    assert not any("norm" in name for name in names)


@torch.no_grad()
def test_the_cap_is_behind_the_multiplier_of_the_head() -> None:
    base = nanochat()
    capped, free = grafted(base, lm_head_multiplier=3.0), grafted(base, logit_softcap=None, lm_head_multiplier=3.0)
    wanted = 15 * torch.tanh(free(IDS).logits / 15)
    torch.testing.assert_close(capped(IDS).logits, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_nanochat_graft_inside_a_wider_model_is_the_same_model() -> None:
    """`resized` knows the norm of the embedding and the square in the MLP."""
    small = grafted(nanochat())
    wide = AdambaForCausalLM(resized(small.config, AdambaShape(48, 4, 2, 160, 6, 3))).eval()
    written = ("embed_tokens", "o_proj", "down_proj", "out_proj")  # into the stream: the new entries start at zero
    for name, tensor in wide.state_dict().items():
        if any(part in name for part in written):
            tensor.zero_()
        put(tensor, index_of(name, small.config, wide.config), small.state_dict()[name])
    assert (wide(IDS).logits - small(IDS).logits).abs().max() < 1e-5


@torch.no_grad()
def test_a_nanochat_graft_decodes_as_it_reads() -> None:
    model, cache = grafted(nanochat()), None
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.mamba.out_proj.weight, std=0.1)
    cache = DynamicCache(config=model.config)
    parts = [model(piece, past_key_values=cache, use_cache=True).logits for piece in IDS.split([20, *[1] * 20], dim=1)]
    assert (torch.cat(parts, 1) - model(IDS).logits).abs().max() < 1e-5


def test_every_part_of_a_nanochat_graft_gets_a_gradient() -> None:
    model = grafted(nanochat()).train()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.mamba.out_proj.weight, std=0.1)
    model(IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
