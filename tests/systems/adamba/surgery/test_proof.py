"""Running a checkpoint layer by layer is running it; a proof that fails is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import NanoChatConfig, NanoChatForCausalLM

from agentforge.errors import CheckRefused
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.expand import expand
from agentforge.systems.adamba.surgery.graft import MambaSizes
from agentforge.systems.adamba.surgery.nanochat_graft import graft_nanochat
from agentforge.systems.adamba.surgery.proof import checkpoint_logits, compare, load, logits_of, prove, random_rows
from tests.systems.adamba.checkpoints import BASE, VOCABULARY, adamba, llama, loud, save

ROWS = random_rows(VOCABULARY, seed=9, count=2)


def whole_model_is_streamed_model(directory: Path) -> None:
    assert all(map(torch.equal, logits_of(load(directory), ROWS), checkpoint_logits(directory, ROWS)))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_layer_by_layer_is_the_whole_model(tmp_path: Path, tied: bool) -> None:
    whole_model_is_streamed_model(llama(tmp_path / "llama", tied=tied, num_hidden_layers=3))
    old, new = adamba(tmp_path / "adamba", tied=tied, embedding_multiplier=1.5), tmp_path / "new"
    whole_model_is_streamed_model(old)
    new.mkdir()
    expand(old, new, AdambaShape(80, 6, 3, 120, 5, 12), 0)
    whole_model_is_streamed_model(new)


def test_also_with_the_switches_of_a_nanochat(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = save(loud(NanoChatForCausalLM(NanoChatConfig(vocab_size=VOCABULARY, **sizes))), tmp_path / "base")
    old, new = tmp_path / "old", tmp_path / "new"
    for place in (old, new):
        place.mkdir()
    graft_nanochat(base, old, MambaSizes(d_state=4, chunk=16), 3)
    expand(old, new, replace(AdambaShape.of(load(old).config), hidden_size=80), 0)
    whole_model_is_streamed_model(old)
    whole_model_is_streamed_model(new)


def test_a_proof_that_fails_is_refused(tmp_path: Path) -> None:
    source, other = adamba(tmp_path / "whole", BASE), adamba(tmp_path / "other", BASE, rms_norm_eps=1e-2)
    with pytest.raises(CheckRefused, match=r"logits differ from the old one's by up to .* nothing was published"):
        prove(source, other, ROWS, 1e-5)
    ones = torch.ones(4, 5)
    with pytest.raises(CheckRefused):
        compare([ones], [ones * torch.nan], 1e-5)
    assert compare([8 * ones], [8 * ones + 7e-5], 1e-5).bound == 8e-5
