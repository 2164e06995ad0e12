"""The order of importance only changes who comes first; what attention is worth is measured by leaving it out."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import FalconH1ForCausalLM

from agentforge.errors import UserError
from agentforge.models.checkpoint import Checkpoint
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.drop_attention import choose_layers, drop_attention, mean_loss
from agentforge.systems.adamba.surgery.expand import expand
from agentforge.systems.adamba.surgery.importance import Importance, measure, order_checkpoint
from agentforge.systems.adamba.surgery.proof import load, logits_of, prove, random_rows
from agentforge.systems.adamba.widths.submodels import cut
from tests.systems.adamba.checkpoints import VOCABULARY, adamba, save

WHOLE = AdambaShape(64, 8, 4, 96, 6, 3)
ROWS = random_rows(VOCABULARY, seed=6)


def random_importance(seed: int) -> Importance:
    generator = torch.Generator().manual_seed(seed)

    def scores(size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator)

    return Importance(scores(64), *([scores(size) for _ in range(3)] for size in (4, 96, 6)))


def ordered(source: Path, target: Path, importance: Importance) -> Path:
    target.mkdir()
    order_checkpoint(source, target, importance)
    return target


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("seed", range(3))
def test_any_order_computes_the_same(tmp_path: Path, seed: int, tied: bool) -> None:
    source = adamba(tmp_path / "whole", WHOLE, tied=tied)
    target = ordered(source, tmp_path / "ordered", random_importance(seed))
    assert prove(source, target, ROWS, 1e-5).max_logit_difference < 1e-5
    changed = [name for name in Checkpoint(source).tensors if not same(source, target, name)]
    assert len(changed) == len(Checkpoint(source).tensors)


def same(one: Path, other: Path, name: str) -> bool:
    return torch.equal(Checkpoint(one).read(name), Checkpoint(other).read(name))


def silence(model: Any, keep: dict[str, list[int]]) -> None:
    """Let only some channels, groups, units and heads be heard."""
    with torch.no_grad():
        for channel in set(range(64)) - set(keep["channels"]):
            model.model.embed_tokens.weight[:, channel] = 0
            for layer in model.model.layers:
                for module in (layer.self_attn.o_proj, layer.feed_forward.down_proj, layer.mamba.out_proj):
                    module.weight[channel] = 0
        for layer in model.model.layers:
            for group in set(range(4)) - set(keep["groups"]):
                layer.self_attn.o_proj.weight[:, group * 32 : group * 32 + 32] = 0
            for unit in set(range(96)) - set(keep["units"]):
                layer.feed_forward.down_proj.weight[:, unit] = 0
            for head in set(range(6)) - set(keep["heads"]):
                layer.mamba.out_proj.weight[:, head * 8 : head * 8 + 8] = 0


def test_what_matters_is_found_and_put_first(tmp_path: Path) -> None:
    """Half of everything is silent: after ordering, the half-width slice is the whole model's function."""
    model = load(adamba(tmp_path / "whole", WHOLE))
    keep = {
        "channels": list(range(1, 64, 2)),
        "groups": [1, 3],
        "units": list(range(48, 96)),
        "heads": [0, 4, 5],
    }
    silence(model, keep)
    source = save(model, tmp_path / "silent")
    importance = measure(model, ROWS)
    faster = measure(AdambaForCausalLM.from_pretrained(source).eval(), ROWS)
    torch.testing.assert_close(asdict(faster), asdict(importance), rtol=1e-4, atol=1e-4)
    assert sorted(importance.channels.argsort(descending=True)[:32].tolist()) == keep["channels"]
    for layer in range(3):
        assert sorted(importance.groups[layer].argsort(descending=True)[:2].tolist()) == keep["groups"]
        assert sorted(importance.units[layer].argsort(descending=True)[:48].tolist()) == keep["units"]
        assert sorted(importance.heads[layer].argsort(descending=True)[:3].tolist()) == keep["heads"]
    whole = load(ordered(source, tmp_path / "ordered", importance))
    half = cut(whole, WHOLE.scaled(Fraction(1, 2)))
    # the norms of the half see 32 channels where those of the whole see them among 64
    config, twice = half.config, 2**0.5
    config.rms_norm_eps *= 2
    config.attention_in_multiplier, config.ssm_in_multiplier, config.lm_head_multiplier = twice, twice, twice
    config.mlp_multipliers = [twice, twice]
    same_channels = FalconH1ForCausalLM(config).eval()
    same_channels.load_state_dict(half.state_dict())
    expected, found = logits_of(whole, ROWS), logits_of(same_channels, ROWS)
    assert max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)) < 1e-5


def test_an_expanded_model_or_one_with_groups_keeps_its_order(tmp_path: Path) -> None:
    source = adamba(tmp_path / "whole", WHOLE)
    (tmp_path / "grown").mkdir()
    expand(source, tmp_path / "grown", AdambaShape(80, 8, 4, 96, 6, 3), 0)
    with pytest.raises(UserError, match="was expanded, so its old part must stay first"):
        ordered(tmp_path / "grown", tmp_path / "a", random_importance(0))
    with pytest.raises(UserError, match="has 2 Mamba groups"):
        ordered(adamba(tmp_path / "groups", WHOLE, mamba_n_groups=2), tmp_path / "b", random_importance(0))
    with pytest.raises(UserError, match="no rows to measure importance on"):
        measure(load(source), [])


def test_the_layers_whose_attention_matters_least_are_dropped(tmp_path: Path) -> None:
    model = load(adamba(tmp_path / "whole", WHOLE))
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.mul_(1e-3)
    source = save(model, tmp_path / "quiet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = choose_layers(model, ROWS, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert cost.dropped == [1]
    assert cost.before == mean_loss(model, ROWS)[0]
    assert cost.after == cost.alone[1]
    assert abs(cost.alone[1] - cost.before) < min(abs(cost.alone[layer] - cost.before) for layer in (0, 2))
    assert cost.tokens == sum(len(row) - 1 for row in ROWS)
    (tmp_path / "dropped").mkdir()
    drop_attention(source, tmp_path / "dropped", cost.dropped)
    dropped = load(tmp_path / "dropped")
    assert dropped.config.dropped_attention == [1]
    assert mean_loss(dropped, ROWS)[0] == cost.after
    name = "model.layers.1.self_attn.o_proj.weight"
    assert [other for other in before if not same(source, tmp_path / "dropped", other)] == [name]
    for layers, says in (([1], "names 1; there is attention in the layers 0, 2"), (3, "attention in 2 layers")):
        with pytest.raises(UserError, match=says):
            choose_layers(dropped, ROWS, layers)
