"""An Adamba's way out: a plain one through LoRA and merge into a GGUF that agrees, a nanochat graft refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused
from agentforge.export.convert import plan_conversion
from agentforge.export.gguf import gguf
from agentforge.export.llama_cpp import converter_source
from agentforge.export.merge import merge_stage
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import Shape, resized
from tests.export.export_models import make_adapter, make_recipe, needs_llama_cpp


def save_adamba(
    directory: Path, tokenizer: PreTrainedTokenizerFast, *, shape: Shape, tied: bool, **fields: Any
) -> Path:
    """A model of ``shape`` that a base of 64 channels has been widened or narrowed to."""
    base = AdambaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        mamba_d_ssm=64,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
        exit_layers=[1],
        **fields,
    )
    torch.manual_seed(0)
    model = AdambaForCausalLM(resized(base, shape))
    for layer in base.dropped_attention:
        torch.nn.init.zeros_(model.model.layers[layer].self_attn.o_proj.weight)
    model.save_pretrained(directory, max_shard_size="200KB")
    tokenizer.save_pretrained(directory)
    return directory


def gguf_figures(directory: Path, model: Path) -> dict[str, Any]:
    recipe = make_recipe(directory, model, gguf=["f16"], max_kl={"f16": 1e-3}, min_top1={"f16": 0.98})
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lora": None})})
    shutil.copytree(model, recipe.trained)
    (recipe.trained / "manifest.json").write_text('{"content": "x"}')
    return read_manifest(gguf(recipe)[0])["metrics"]


HALF, GROWN = Shape(32, 2, 1, 64, 2, 2), Shape(96, 6, 3, 192, 6, 3)


@pytest.mark.gguf
@needs_llama_cpp
@pytest.mark.parametrize(
    ("shape", "tied"), [(HALF, True), (GROWN, False), (GROWN, True)], ids=["half", "grown", "grown, tied"]
)
def test_the_gguf_agrees_at_any_width(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, shape: Shape, tied: bool
) -> None:
    model = save_adamba(tmp_path / "adamba", tokenizer, shape=shape, tied=tied, dropped_attention=[0])
    assert gguf_figures(tmp_path / "runs", model)["kl"] < 1e-4


def test_an_adapter_is_merged_into_a_plain_falcon_h1(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base = save_adamba(tmp_path / "adamba", tokenizer, shape=GROWN, tied=True)
    recipe = make_recipe(tmp_path / "runs", base)
    live = make_adapter(base, recipe.trained, target_modules=["q_proj", "in_proj", "down_proj"])
    merged = merge_stage(recipe)
    written = json.loads((merged / "config.json").read_text())
    assert (written["model_type"], written["base_hidden_size"], written["exit_layers"]) == ("falcon_h1", 64, [1])
    ids = torch.arange(40)[None]
    with torch.no_grad():
        found = AdambaForCausalLM.from_pretrained(merged).eval()(ids).logits
        torch.testing.assert_close(found, live(ids).logits, rtol=1e-4, atol=1e-4)


@needs_llama_cpp
def test_a_nanochat_graft_has_no_gguf(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = save_adamba(tmp_path, tokenizer, shape=HALF, tied=False, logit_softcap=15.0, mlp="relu2")
    config = json.loads((model / "config.json").read_text())
    with pytest.raises(CheckRefused, match=r"GGUF has no way to say logit_softcap=15\.0, mlp=relu2"):
        plan_conversion(config, converter_source())
