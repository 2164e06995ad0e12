"""QK-Clip measures what attention computes, shrinks exactly the heads that are too large, and refuses to be idle."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from agentforge.errors import UserError
from agentforge.optim.qk_clip import QKClip

IDS = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))


def model(kind: str = "llama", attention: str = "sdpa", **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2} | changes
    heads = {"num_attention_heads": 4, "num_key_value_heads": changes.get("num_key_value_heads", 4)}
    config = AutoConfig.for_model(kind, **sizes | heads)
    made = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    for layer in made.model.layers:
        layer.self_attn.q_proj.weight.data[:8] *= 40  # the first of four heads
    return made.train()


def logits_by_head(made: Any) -> torch.Tensor:
    """Return `(layers, heads)`, the largest logits of pairs that see each other, as eager attention computes them."""
    eager = copy.deepcopy(made)
    eager.set_attn_implementation("eager")
    seen: list[torch.Tensor] = []
    softmax = torch.nn.functional.softmax

    def spy(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(x.detach().amax((0, 2, 3)))
        return softmax(x, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", spy)
        eager.eval()(input_ids=IDS)
    return torch.stack(seen)


@pytest.mark.parametrize("shared", [4, 2, 1])
def test_it_measures_what_eager_attention_computes(shared: int) -> None:
    made = model(num_key_value_heads=shared)
    wanted = logits_by_head(made)
    clip = QKClip(made, 1e9)
    made(input_ids=IDS)
    assert torch.allclose(torch.stack(list(clip.largest.values())), wanted, atol=1e-4)


@pytest.mark.parametrize("shared", [4, 2])
def test_only_the_heads_above_the_threshold_shrink_and_exactly_to_it(shared: int) -> None:
    made = model(num_key_value_heads=shared)
    weights = copy.deepcopy(made.state_dict())
    clip = QKClip(made, 1e9)
    assert all(torch.equal(weights[name], now) for name, now in made.state_dict().items()), "the proof leaves no trace"
    made(input_ids=IDS)
    first = next(iter(clip.largest.values())).clone()
    clip.threshold = float(first[0] / 3)
    assert (first > clip.threshold).tolist() == [True, False, False, False]
    clip.clip()
    after = logits_by_head(made)[0]
    assert after[0] == pytest.approx(clip.threshold, rel=1e-4)
    assert torch.allclose(after[1:], first[1:], atol=1e-4)
    keys = made.model.layers[0].self_attn.k_proj.weight
    unchanged = torch.equal(keys, weights["model.layers.0.self_attn.k_proj.weight"])
    assert unchanged == (shared != 4), "keys that several heads share are left alone"
    assert clip.statistics()["qk_clip_events"] >= 1


def test_logits_that_are_no_numbers_do_not_reach_the_weights() -> None:
    made = model()
    clip = QKClip(made, 1.0)
    weights = copy.deepcopy(made.state_dict())
    for module in (layer.self_attn for layer in made.model.layers):
        clip.largest[module] = torch.tensor([float("nan"), float("inf"), 0.5, -1.0])
    clip.clip()
    assert all(torch.equal(weights[name], now) for name, now in made.state_dict().items())


def test_it_measures_only_in_training() -> None:
    made = model()
    clip = QKClip(made, 1.0)
    made.eval()(input_ids=IDS)
    assert clip.largest == {}


def test_it_is_refused_where_it_would_be_idle() -> None:
    with pytest.raises(UserError, match="normalises queries and keys"):
        QKClip(model("qwen3", head_dim=8), 30.0)
    with pytest.raises(UserError, match=r"set model\.attn_implementation to sdpa"):
        QKClip(model(attention="eager"), 30.0)
