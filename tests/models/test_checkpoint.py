"""Our safetensors reader and writer against the library, and what identifies a base."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentforge.errors import CheckRefused, UserError
from agentforge.models.checkpoint import DTYPES, Checkpoint, checkpoint_directory, write_shard
from agentforge.models.fingerprint import base_fingerprint

tensors = st.dictionaries(
    st.text("abc.", min_size=1, max_size=6),
    st.tuples(st.sampled_from(list(DTYPES.values())), st.lists(st.integers(0, 5), max_size=3)),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(tensors)
def test_what_we_write_the_library_reads(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[torch.dtype, list[int]]]
) -> None:
    file = tmp_path_factory.mktemp("shard") / "model.safetensors"
    values = {name: (torch.randn(shape) * 10).to(dtype) for name, (dtype, shape) in shapes.items()}
    write_shard(file, {name: (v.dtype, tuple(v.shape)) for name, v in values.items()}, values.__getitem__)
    found = load_file(file)
    assert set(found) == set(values)
    ours = Checkpoint(file.parent)
    for name, value in values.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(ours.read(name), value, rtol=0, atol=0, equal_nan=True)


def test_what_the_library_writes_we_read(tmp_path: Path) -> None:
    values = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(2).to(torch.bfloat16)}
    save_file(values, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.parameters == 19
    for name, value in values.items():
        torch.testing.assert_close(checkpoint.read(name), value, rtol=0, atol=0)


def test_a_layout_that_lies_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the layout says"):
        write_shard(tmp_path / "x", {"a": (torch.float32, (2, 2))}, lambda _: torch.zeros(4))


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckRefused, match="a quantised type"):
        Checkpoint(tmp_path).read("a")


def test_pickles_are_not_read(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors only"):
        Checkpoint(tmp_path)


def test_no_such_model() -> None:
    with pytest.raises(UserError, match="no such directory, and it is not a Hub id"):
        checkpoint_directory("runs/nowhere/at/all")


def small_model(seed: int) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=100, num_hidden_layers=2, head_dim=16, **shape))


def test_fingerprint_is_of_the_model_not_of_its_files(tmp_path: Path) -> None:
    model = small_model(0)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert base_fingerprint(tmp_path / "whole") == base_fingerprint(tmp_path / "sharded")
    shutil.copytree(tmp_path / "whole", tmp_path / "moved")
    (tmp_path / "moved" / "tokenizer_config.json").write_text("{}")
    assert base_fingerprint(tmp_path / "whole") == base_fingerprint(str(tmp_path / "moved"))

    small_model(1).save_pretrained(tmp_path / "other")
    assert base_fingerprint(tmp_path / "whole") != base_fingerprint(tmp_path / "other")
    config = tmp_path / "moved" / "config.json"
    config.write_text(config.read_text().replace('"rope_theta": 10000.0', '"rope_theta": 500000.0'))
    assert base_fingerprint(tmp_path / "whole") != base_fingerprint(tmp_path / "moved")
