"""Which rows may be run together: found out by the probe for each kind of model, and by nothing that is in its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PretrainedConfig

from agentforge.errors import UserError
from agentforge.models import row_isolation
from agentforge.models.auto import register_all
from agentforge.models.config_check import CONFIG_CLASSES
from agentforge.models.row_isolation import isolation_of, require
from agentforge.models.small_twin import concrete_class, kinds, small_twin
from agentforge.planning.shapes import PACKABLE, sized_by_table
from agentforge.systems.cognate.modeling.configuration import CognateConfig

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SCAN: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "shared_expert_intermediate_size": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
SLIDING = {"sliding_window": 4096, "layer_types": ["sliding_attention", "full_attention"]}
SMALL: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 8},
    "mistral": SIZES | {"sliding_window": 4096},
    "gemma3_text": SIZES | SLIDING | {"head_dim": 8},
    "gpt2": {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "mixtral": SIZES | {"num_local_experts": 4},
    "zaya": {"hidden_size": 64, "vocab_size": 64},
    "mamba": SCAN | {"state_size": 4},
    "mamba2": SCAN | {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "falcon_h1": SIZES | MAMBA2 | {"mamba_d_ssm": 64, "head_dim": 8},
    "adamba": SIZES | MAMBA2 | {"mamba_d_ssm": 64, "head_dim": 8},
    "bamba": SIZES | MAMBA2 | {"attn_layer_indices": [1]},
    "jamba": SIZES | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4},
    "qwen3_next": SIZES | EXPERTS | DELTA | {"head_dim": 8},
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"]},
    "rwkv": SCAN | {"attention_hidden_size": 32},
    "recurrent_gemma": SIZES | {"lru_width": 32, "num_hidden_layers": 3},
    "opt": {"vocab_size": 64, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gpt_oss": SIZES | SLIDING | {"head_dim": 8, "num_local_experts": 4},
}
CARRIED = ("falcon_h1", "adamba", "bamba", "mamba2", "qwen3_next", "lfm2", "zaya")


register_all()


def small(kind: str, **fields: Any) -> PretrainedConfig:
    return AutoConfig.for_model(kind, **SMALL[kind] | {"bos_token_id": None, "eos_token_id": None} | fields)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(row_isolation, "_FOUND", {})
    return tmp_path / "agentforge" / "row_isolation"


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt2", "mixtral"])
def test_packing_is_proven(kind: str) -> None:
    assert isolation_of(small(kind)).allows("packed")


@pytest.mark.parametrize("kind", ["zaya", "mamba", "mamba2", "falcon_h1", "adamba", "bamba", "jamba", "qwen3_next"])
def test_a_state_that_runs_on_is_found_out(kind: str) -> None:
    """`zaya` was packed: its convolution stood in no list of names."""
    found = isolation_of(small(kind))
    assert found.reason is None and 0.05 < found.differences["packed"] < float("inf")
    assert "change each other" in (found.refusal("packed") or "")


@pytest.mark.parametrize("kind", ["lfm2", "rwkv", "recurrent_gemma", "opt", "bloom", "gpt_oss"])
def test_so_is_whatever_else_does_not_look_at_the_positions(kind: str) -> None:
    assert not isolation_of(small(kind)).allows("packed")


@pytest.mark.parametrize(
    ("kind", "left", "generated", "gapped"),
    [
        ("llama", True, True, True),
        ("gpt2", False, True, True),  # positions are learned: TRL, which gives none, shifts them
        ("mistral", True, True, False),  # a window counts the gap
        ("gemma3_text", True, True, False),
        ("falcon_h1", True, True, False),  # what is padding does not enter its scan, but a gap parts the convolution
        ("rwkv", False, False, False),
    ],
)
def test_padding_is_harmless_only_where_it_is(kind: str, left: bool, generated: bool, gapped: bool) -> None:
    found = isolation_of(small(kind))
    assert found.allows("right")
    assert (found.allows("left"), found.allows("generated"), found.allows("gapped")) == (left, generated, gapped)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", *CARRIED])
def test_what_may_be_read_piece_by_piece(kind: str) -> None:
    assert isolation_of(small(kind)).allows("carried")


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text", "gpt_oss", "jamba", "recurrent_gemma", "rwkv"])
def test_what_may_not(kind: str) -> None:
    """A window hides what such a cache shows; Jamba's scan reads more than one token only from an empty state; and the
    states of the last two lie in the model, or in another argument."""
    assert 0.05 < isolation_of(small(kind)).differences["carried"] < float("inf")


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_what_cannot_be(kind: str) -> None:
    """They take no mask for each query."""
    assert isolation_of(small(kind)).differences["carried"] == float("inf")


def test_the_plan_knows_without_torch_what_the_probe_finds() -> None:
    assert {
        kind for kind in filter(sized_by_table, CONFIG_CLASSES) if isolation_of(small(kind)).allows("packed")
    } == PACKABLE


# -- the twin -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "falcon_h1", "olmo_hybrid"])
def test_the_twin_of_a_large_model_has_all_its_kinds_of_layers(kind: str) -> None:
    """The classes' own defaults: billions of weights."""
    config = AutoConfig.for_model(kind)
    twin = small_twin(concrete_class(config), config)
    assert twin is not None and sum(p.numel() for p in twin.parameters()) < 150e6
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config)
    assert kinds(twin) == kinds(whole)
    assert config.vocab_size > twin.config.vocab_size, "the config that was given is as it was"


class LeakyAttention(nn.Module):
    """A layer of somebody's own: a running mean over all that came before, whatever the positions say."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output, *rest = self.inner(hidden_states, *args, **kwargs)
        count = torch.arange(1, output.shape[1] + 1, device=output.device)[:, None]
        return (output + hidden_states.cumsum(1) / count, *rest)


class LeakyLlama(LlamaForCausalLM):
    """A new recurrent model that no list knows: a Llama by its config."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.layers[-1].self_attn = LeakyAttention(self.model.layers[-1].self_attn)


def test_a_model_that_is_unknown_is_tried_as_well(own_cache: Path) -> None:
    model = LeakyLlama(small("llama"))
    assert not isolation_of(model).allows("packed") and isolation_of(model).allows("right")
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert isolation_of(adapted) is isolation_of(model)
    assert not own_cache.exists(), "what its code is tomorrow is not known"
    with pytest.raises(UserError, match="here: rows of LeakyLlama packed end to end change each other"):
        require(model, "packed", "here")


def test_without_a_twin_the_loaded_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_isolation, "small_twin", lambda *args, **options: None)
    model = AutoModelForCausalLM.from_config(small("llama")).train()
    found = isolation_of(model)
    assert model.training and found.allows("packed") and not found.allows("gapped"), "its window may be longer"
    row_isolation._FOUND.clear()
    torch.nn.init.zeros_(model.model.layers[0].self_attn.o_proj.weight)
    monkeypatch.setattr(row_isolation, "_read", lambda name: None)
    assert "o_proj.weight is all 0 so far" in (isolation_of(model).refusal("packed") or "")
    row_isolation._FOUND.clear()
    assert "could not be tried in small" in (isolation_of(small("llama")).refusal("packed") or "")


# -- the cache ------------------------------------------------------------------------------------------------------


def test_what_was_found_is_kept_by_all_that_it_depends_on(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    ask = row_isolation._ask
    monkeypatch.setattr(row_isolation, "_ask", lambda *args: asked.append(args) or ask(*args))
    first = isolation_of(small("llama"))
    row_isolation._FOUND.clear()
    assert isolation_of(small("llama")) == first and len(asked) == 1, "another process reads it"
    isolation_of(small("llama", num_hidden_layers=3))
    assert len(asked) == 2 == len(list(own_cache.iterdir()))
    monkeypatch.setattr(row_isolation, "_installed", lambda name: "another version")
    isolation_of(small("llama"))
    assert len(asked) == 3
    for file in own_cache.iterdir():
        file.write_text("{")
    row_isolation._FOUND.clear()
    assert isolation_of(small("llama")).allows("packed") and len(asked) == 4, "a torn file is asked again"


def test_a_verdict_on_a_model_of_ours_is_kept_until_our_code_changes(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(row_isolation, "_ask", lambda *_: asked.append("") or row_isolation.Isolation("Ours", {}, 0.0))
    config = CognateConfig(num_prelude_layers=1)
    for code in ("as it is", "as it is", "changed"):
        monkeypatch.setattr(row_isolation, "_own_code", lambda code=code: code)
        row_isolation._FOUND.clear()  # another process
        isolation_of(config)
    assert len(asked) == 2 == len(list(own_cache.iterdir()))


def test_asking_draws_nothing_from_the_runs_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # of a trainer that plays
        assert isolation_of(small("qwen2")).allows("packed")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(("in_fp64", "allowed"), [(0.0, True), (3e-4, False)])
def test_what_vanishes_in_fp64_was_rounding(monkeypatch: pytest.MonkeyPatch, in_fp64: float, allowed: bool) -> None:
    def found(model: Any, name: str) -> row_isolation.Isolation:
        difference = in_fp64 if model.dtype == torch.float64 else 3e-4
        return row_isolation.Isolation(name, dict.fromkeys(row_isolation.WAYS, difference), 1e-4)

    monkeypatch.setattr(row_isolation, "probe", found)
    asked = row_isolation._ask(LlamaForCausalLM, small("llama"), None)
    assert asked.allows("packed") is allowed
