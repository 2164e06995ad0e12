"""A larger model computes what the smaller one did, can learn with all that is new, and still holds the old one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentforge.errors import UserError
from agentforge.models.checkpoint import INDEX_FILE, Checkpoint
from agentforge.systems.adamba.modeling.shape import AdambaShape, index_of, put, take
from agentforge.systems.adamba.surgery.expand import expand
from agentforge.systems.adamba.surgery.proof import load, logits_of, random_rows
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint
from agentforge.systems.adamba.surgery.streaming import read_config
from tests.systems.adamba.checkpoints import BASE, VOCABULARY, adamba

WRITERS = ("o_proj.weight", "down_proj.weight", "out_proj.weight")


def grown(source: Path, target: Path, shape: AdambaShape, **options: int) -> Path:
    target.mkdir(parents=True)
    expand(source, target, shape, seed=5, **options)
    return target


def difference(one: Path, other: Path, dtype: torch.dtype = torch.float32) -> float:
    rows = random_rows(VOCABULARY, seed=2, count=1)
    pairs = zip(logits_of(load(one, dtype), rows), logits_of(load(other, dtype), rows), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    "shape",
    [
        replace(BASE, hidden_size=80),
        replace(BASE, hidden_size=65),
        replace(BASE, num_attention_heads=6, num_key_value_heads=3),
        replace(BASE, intermediate_size=97),
        replace(BASE, mamba_n_heads=7),
        replace(BASE, num_hidden_layers=7),
        AdambaShape(80, 6, 3, 120, 5, 3),
        AdambaShape(128, 8, 4, 192, 8, 4),
    ],
    ids=["5/4", "one-channel", "heads", "one-unit", "mamba", "layers", "all", "double"],
)
def test_logits_stay(tmp_path: Path, shape: AdambaShape, tied: bool) -> None:
    old = adamba(tmp_path / "old", tied=tied)
    assert difference(old, grown(old, tmp_path / "new", shape)) < 1e-5


def test_heads_four_to_five_and_what_float64_says(tmp_path: Path) -> None:
    """128 -> 160 is 2048 -> 2560. In fp64 what is left is the norms' and the scan's own float32."""
    old = adamba(tmp_path / "old", AdambaShape(128, 4, 4, 256, 8, 4))
    new = grown(old, tmp_path / "new", AdambaShape(160, 5, 5, 320, 10, 4))
    assert difference(old, new) < 1e-5
    assert difference(old, new, torch.float64) < 2e-6


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.builds(
            lambda hidden, groups, units, mamba, layers: (hidden, groups, units, mamba, layers),
            st.integers(0, 40),
            st.integers(0, 2),
            st.integers(0, 50),
            st.integers(0, 3),
            st.integers(0, 2),
        ).filter(any),
        min_size=1,
        max_size=2,
    )
)
def test_any_growth_again_and_again(tmp_path: Path, steps: list[tuple[int, ...]]) -> None:
    """Logits stay, and every model of the way is still in the last one: tensors and config, to the bit."""
    place = tmp_path / str(len(list(tmp_path.iterdir())))
    ways = [adamba(place / "0", AdambaShape(32, 2, 1, 40, 2, 1))]
    for number, (hidden, groups, units, mamba, layers) in enumerate(steps, 1):
        old = AdambaShape.of(read_config(ways[-1]))
        larger = AdambaShape(
            old.hidden_size + hidden,
            old.num_attention_heads + 2 * groups,
            old.num_key_value_heads + groups,
            old.intermediate_size + units,
            old.mamba_n_heads + mamba,
            old.num_hidden_layers + layers,
        )
        ways.append(grown(ways[-1], place / str(number), larger))
    assert difference(ways[0], ways[-1]) < 1e-5
    for number, way in enumerate(ways[:-1]):
        out = place / f"back-{number}"
        out.mkdir()
        slice_checkpoint(ways[-1], out, AdambaShape.of(read_config(way)))
        assert_same_model(way, out)


def assert_same_model(one: Path, other: Path) -> None:
    first, second = Checkpoint(one), Checkpoint(other)
    assert set(first.tensors) == set(second.tensors)
    assert all(torch.equal(first.read(name), second.read(name)) for name in first.tensors)
    config = json.loads((other / "config.json").read_text())
    assert {**config, **json.loads((one / "config.json").read_text())} == config


def test_the_config_says_where_it_came_from(tmp_path: Path) -> None:
    old = adamba(tmp_path / "old")
    middle, last = AdambaShape(80, 6, 3, 120, 5, 2), AdambaShape(128, 8, 4, 192, 8, 3)
    grown(old, tmp_path / "middle", middle)
    new = load(grown(tmp_path / "middle", tmp_path / "last", last))
    assert AdambaShape(**new.config.expanded_from) == middle
    assert [AdambaShape(**entry) for entry in new.config.expansions] == [BASE, middle]
    assert type(new).__name__ == "FalconH1ForCausalLM"
    assert new.config.base_hidden_size == 64


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_new_writers_have_gradients_at_the_first_step(tmp_path: Path, tied: bool) -> None:
    """All of them; in a tied model but for new rows that only a new column of the embedding could read, still zero."""
    old = adamba(tmp_path / "old", tied=tied)
    new = load(grown(old, tmp_path / "new", AdambaShape(80, 6, 3, 120, 5, 3)))
    ids = torch.tensor(random_rows(VOCABULARY, seed=3))
    new.train()(input_ids=ids, labels=ids).loss.backward()
    small, large = read_config(old), new.config
    for name, parameter in new.named_parameters():
        if not name.endswith(WRITERS):
            continue
        layer = int(name.split(".")[2])
        fresh = torch.ones_like(parameter, dtype=torch.bool)
        if layer < 2:
            index = index_of(name, small, large)
            put(fresh, index, torch.zeros_like(take(fresh, index)))
        if tied and (layer == 2 or (layer == 1 and "down_proj" in name)):
            assert not parameter.grad[64:].any(), name
            fresh[64:] = False
        assert (parameter.grad[fresh] != 0).all(), name
    seen = new.model.embed_tokens.weight.grad[ids.unique(), 64:]
    assert (seen != 0).all()


def test_what_waits_a_step_in_a_tied_model_learns_at_the_second(tmp_path: Path) -> None:
    new = load(grown(adamba(tmp_path / "old", tied=True), tmp_path / "new", AdambaShape(80, 6, 3, 120, 5, 3))).train()
    ids = torch.tensor(random_rows(VOCABULARY, seed=3))
    optimizer = torch.optim.SGD(new.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        new(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    for layer in new.model.layers[1:]:
        assert (layer.feed_forward.down_proj.weight.grad[64:] != 0).any()


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (replace(BASE, hidden_size=48), "hidden_size would shrink from 64 to 48"),
        (replace(BASE, hidden_size=80, num_hidden_layers=1), "num_hidden_layers would shrink"),
        (replace(BASE, num_attention_heads=5), "each key-value head must serve 2 attention heads"),
        (replace(BASE, num_attention_heads=6), "num_attention_heads 6 and num_key_value_heads 2 do not fit"),
        (BASE, "no size grows"),
    ],
)
def test_refused(tmp_path: Path, shape: AdambaShape, says: str) -> None:
    with pytest.raises(UserError, match=says):
        grown(adamba(tmp_path / "old"), tmp_path / "new", shape)


def test_mamba_groups_keep_their_heads(tmp_path: Path) -> None:
    old = adamba(tmp_path / "old", mamba_n_groups=2)
    with pytest.raises(UserError, match="mamba_n_heads cannot change from 4 to 6"):
        grown(old, tmp_path / "new", replace(BASE, mamba_n_heads=6))
    assert difference(old, grown(old, tmp_path / "wider", replace(BASE, hidden_size=80))) < 1e-5


def test_a_share_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_key_value_heads 2 would be 2.5"):
        BASE.scaled(Fraction(5, 4))


def test_shards(tmp_path: Path) -> None:
    old = adamba(tmp_path / "old")
    new = grown(old, tmp_path / "new", AdambaShape(80, 6, 3, 120, 5, 3), shard_bytes=100_000)
    index = json.loads((new / INDEX_FILE).read_text())
    files = sorted(new.glob("model-*.safetensors"))
    assert len(files) > 3
    assert {file.name for file in files} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == 4 * Checkpoint(new).parameters
    assert difference(old, new) < 1e-5
    again = grown(new, tmp_path / "again", AdambaShape(96, 6, 3, 120, 5, 3), shard_bytes=100_000)
    assert difference(old, again) < 1e-5


PEAK = """
import sys
from pathlib import Path
from agentforge.systems.adamba.surgery.expand import expand
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint
def kilobytes(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))
old, small, new, cut = map(Path, sys.argv[1:])
expand(small, small / "out", AdambaShape(80, 6, 3, 120, 5, 3), 0)  # all that is loaded once is loaded
Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from now on
before = kilobytes("VmRSS")
expand(old, new, AdambaShape(640, 10, 5, 1280, 10, 9), 0)
slice_checkpoint(new, cut, AdambaShape(512, 8, 4, 1024, 8, 7))
print(1024 * (kilobytes("VmHWM") - before))
"""


def test_memory_is_that_of_a_few_tensors(tmp_path: Path) -> None:
    """A model of 100 MB grows to 190 MB and is cut out again in a fraction of that."""
    old = adamba(tmp_path / "old", AdambaShape(512, 8, 4, 1024, 8, 8), head_dim=64, mamba_d_head=64, mamba_d_ssm=512)
    small = adamba(tmp_path / "small")
    places = [old, small, tmp_path / "new", tmp_path / "cut"]
    for place in (small / "out", *places[2:]):
        place.mkdir()
    run = subprocess.run([sys.executable, "-c", PEAK, *map(str, places)], capture_output=True, text=True, check=True)
    model = sum(file.stat().st_size for file in old.glob("*.safetensors"))
    assert model > 90e6
    assert int(run.stdout) < 0.4 * model
