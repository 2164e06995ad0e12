"""Dropped attention stays dropped: trained, loaded, copied and saved, the file computes what the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, FalconH1ForCausalLM

from agentforge.errors import CheckRefused
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM, AdambaModel
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint
from tests.systems.adamba.modeling.test_modeling import adamba, assert_same, tokens

O_PROJ = "model.layers.0.self_attn.o_proj"


def trained(model: Any) -> AdambaForCausalLM:
    """Two steps on everything that can be trained, with nothing left frozen."""
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(tokens(), labels=tokens()).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("fields", [{}, {"attention_bias": True}, {"qk_norm": True}], ids=["plain", "biased", "normed"])
def test_an_adamba_trained_from_scratch_is_the_same_model_in_its_file(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = trained(adamba(dropped_attention=[0, 2], **fields))
    model.save_pretrained(tmp_path / "first")
    again = trained(AdambaForCausalLM.from_pretrained(tmp_path / "first"))
    again.save_pretrained(tmp_path / "second")
    for source, directory in ((model, tmp_path / "first"), (again, tmp_path / "second")):
        tensors = load_file(directory / "model.safetensors")
        assert not any(tensors[name].any() for name in tensors if "layers.0.self_attn.o_proj" in name)
        opened: Any = AdambaForCausalLM if fields.get("qk_norm") else FalconH1ForCausalLM
        if directory.name == "second":
            assert_same(opened.from_pretrained(directory).eval()(tokens()).logits, source(tokens()).logits)


@pytest.fixture
def heard(tmp_path: Path) -> Path:
    """What transformers leaves behind that trained the attention of an Adamba which has dropped it."""
    directory = tmp_path / "heard"
    adamba(dropped_attention=[0]).save_pretrained(directory)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{O_PROJ}.weight"] += 0.1
    save_file(tensors, file, metadata={"format": "pt"})
    return directory


def test_attention_that_is_dropped_and_heard_is_refused(tmp_path: Path, heard: Path) -> None:
    says = (
        r"layer 0 has no attention \(dropped_attention\), but model\.layers\.0\.self_attn\.o_proj\.weight is not zero"
    )
    for opener in (AdambaForCausalLM, AdambaModel):
        with pytest.raises(CheckRefused, match=says):
            opener.from_pretrained(heard)
    with pytest.raises(CheckRefused, match=says):
        slice_checkpoint(heard, tmp_path, AdambaShape(16, 2, 1, 32, 3, 3))


def test_weights_from_elsewhere_are_silenced_where_they_are_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, other = adamba(dropped_attention=[0]), adamba()
    model.load_state_dict(other.state_dict())
    assert not model.state_dict()[f"{O_PROJ}.weight"].any()
    assert f"{O_PROJ}.weight is written as zeros" in caplog.text
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert not tensors[f"{O_PROJ}.weight"].any()
    name = f"{O_PROJ}.weight".replace("o_proj", "q_proj")
    assert torch.equal(tensors[name], other.state_dict()[name])  # the rest of it is kept


def test_the_dtype_of_a_checkpoint_is_one(tmp_path: Path) -> None:
    adamba(dropped_attention=[0]).save_pretrained(tmp_path / "wide")
    model = AdambaForCausalLM.from_pretrained(tmp_path / "wide", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "narrow")
    assert {tensor.dtype for tensor in load_file(tmp_path / "narrow/model.safetensors").values()} == {torch.bfloat16}
    assert isinstance(AutoModel.from_config(model.config), AdambaModel)
