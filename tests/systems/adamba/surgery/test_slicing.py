"""A slice as a checkpoint of its own is the slice that a model computes with in memory, to the bit."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from transformers import FalconH1ForCausalLM

from agentforge.errors import UserError
from agentforge.models.checkpoint import Checkpoint
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.proof import load, logits_of, random_rows
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint
from agentforge.systems.adamba.widths.submodels import cut
from tests.systems.adamba.checkpoints import VOCABULARY, adamba

WHOLE = AdambaShape(64, 4, 4, 96, 8, 3)


def sliced(source: Path, target: Path, shape: AdambaShape, **options: int) -> Path:
    target.mkdir()
    slice_checkpoint(source, target, shape, **options)
    return target


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "shape",
    [
        WHOLE.scaled(Fraction(1, 2)),
        WHOLE.scaled(Fraction(1, 4)),
        WHOLE.scaled(Fraction(3, 4)),
        replace(WHOLE, intermediate_size=37),
        replace(WHOLE, mamba_n_heads=3),
        replace(WHOLE, num_hidden_layers=1),
        AdambaShape(48, 2, 2, 60, 5, 2),
    ],
    ids=["half", "quarter", "three-quarters", "units", "mamba", "first-layer", "all"],
)
def test_the_written_slice_is_the_slice_in_memory(tmp_path: Path, shape: AdambaShape, tied: bool) -> None:
    source = adamba(tmp_path / "whole", WHOLE, tied=tied)
    target = sliced(source, tmp_path / "slice", shape, shard_bytes=30_000)
    model = load(target)
    assert type(model) is FalconH1ForCausalLM
    assert AdambaShape.of(model.config) == shape
    in_memory = cut(load(source), shape)
    rows = random_rows(VOCABULARY, seed=4)
    assert all(map(torch.equal, logits_of(in_memory, rows), logits_of(model, rows)))
    assert Checkpoint(target).parameters < Checkpoint(source).parameters


def test_a_slice_of_a_slice_is_a_slice(tmp_path: Path) -> None:
    source = adamba(tmp_path / "whole", WHOLE)
    quarter = WHOLE.scaled(Fraction(1, 4))
    half = sliced(source, tmp_path / "half", WHOLE.scaled(Fraction(1, 2)))
    direct, second = (sliced(place, tmp_path / name, quarter) for place, name in ((source, "a"), (half, "b")))
    assert (direct / "config.json").read_text() == (second / "config.json").read_text()
    assert (direct / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


def test_exits_and_dropped_layers_beyond_the_depth_leave_the_config(tmp_path: Path) -> None:
    source = adamba(tmp_path / "whole", WHOLE, exit_layers=[1, 2], dropped_attention=[0, 2])
    config = load(sliced(source, tmp_path / "slice", replace(WHOLE, num_hidden_layers=2))).config
    assert (config.exit_layers, config.dropped_attention) == ([1], [0])


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (replace(WHOLE, hidden_size=80), "hidden_size of a slice must be 1 to 64, not 80"),
        (replace(WHOLE, num_hidden_layers=0), "num_hidden_layers of a slice must be 1 to 3, not 0"),
        (replace(WHOLE, num_attention_heads=2), "each key-value head must serve 1 attention heads"),
        (WHOLE, "this slice is the whole model"),
    ],
)
def test_refused(tmp_path: Path, shape: AdambaShape, says: str) -> None:
    with pytest.raises(UserError, match=says):
        sliced(adamba(tmp_path / "whole", WHOLE), tmp_path / "slice", shape)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    source = adamba(tmp_path / "whole", WHOLE, attention_bias=True)
    with pytest.raises(UserError, match="attention_bias is on"):
        sliced(source, tmp_path / "slice", WHOLE.scaled(Fraction(1, 2)))
    config = source / "config.json"
    config.write_text(config.read_text().replace('"falcon_h1"', '"llama"'))
    with pytest.raises(UserError, match="is a llama, not an Adamba; graft it first"):
        sliced(source, tmp_path / "other", WHOLE.scaled(Fraction(1, 2)))
