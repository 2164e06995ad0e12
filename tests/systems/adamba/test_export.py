"""An Adamba's way out: a plain one through LoRA and merge into a GGUF that agrees, a nanochat graft refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
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
from agentforge.export.model_card import model_card
from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape, resized
from tests.export.export_models import make_adapter, make_recipe, needs_llama_cpp
from tests.manifests import write_manifest


def save_adamba(
    directory: Path, tokenizer: PreTrainedTokenizerFast, *, shape: AdambaShape, tied: bool, **fields: Any
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
    model.save_pretrained(directory, max_shard_size="200KB")
    tokenizer.save_pretrained(directory)
    return directory


def gguf_figures(directory: Path, model: Path) -> dict[str, Any]:
    recipe = make_recipe(directory, model, gguf=["f16"], max_kl={"f16": 1e-3}, min_top1={"f16": 0.98})
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lora": None})})
    shutil.copytree(model, recipe.trained)
    write_manifest(recipe.trained)
    return read_manifest(gguf(recipe)[0])["metrics"]


HALF, GROWN = AdambaShape(32, 2, 1, 64, 2, 2), AdambaShape(96, 6, 3, 192, 6, 3)


@pytest.mark.gguf
@needs_llama_cpp
@pytest.mark.parametrize(
    ("shape", "tied"), [(HALF, True), (GROWN, False), (GROWN, True)], ids=["half", "grown", "grown, tied"]
)
def test_the_gguf_agrees_at_any_width(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, shape: AdambaShape, tied: bool
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


def test_lora_on_the_ends_of_a_nanochat_graft_is_merged_exactly(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """The norm behind the embedding and the cap behind the head are in the forward pass: LoRA is on plain layers."""
    fields: dict[str, Any] = {"logit_softcap": 2.0, "embedding_norm": True, "mlp": "relu2"}
    base = save_adamba(tmp_path / "adamba", tokenizer, shape=HALF, tied=False, **fields)
    recipe = make_recipe(tmp_path / "runs", base)
    live = make_adapter(base, recipe.trained, target_modules=["embed_tokens", "lm_head"])
    merged = merge_stage(recipe)
    assert read_manifest(merged)["metrics"]["max_logit_difference"] < 1e-5
    ids = torch.arange(40)[None]
    with torch.no_grad():
        plain = AdambaForCausalLM.from_pretrained(base).eval()(ids).logits
        adapted, found = live(ids).logits, AdambaForCausalLM.from_pretrained(merged).eval()(ids).logits
    torch.testing.assert_close(found, adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - plain).abs().max() > 0.1
    assert adapted.abs().max() <= 2
    assert "import agentforge.systems.adamba.auto" in (merged / "README.md").read_text()


def test_an_adapter_on_dropped_attention_is_not_merged(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """transformers runs that attention, so an adapter that was trained with it alone may be on it."""
    base = save_adamba(tmp_path / "adamba", tokenizer, shape=GROWN, tied=True, dropped_attention=[1])
    recipe = make_recipe(tmp_path / "runs", base)
    make_adapter(base, recipe.trained, target_modules=["o_proj"])
    with pytest.raises(CheckRefused, match=r"layers\.1\.self_attn\.o_proj\.weight of .*, but layer 1 has no attention"):
        merge_stage(recipe)


def test_the_card_of_a_nanochat_graft_says_how_it_is_opened(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The lines of the card are run, in a process of their own that has not imported agentforge."""
    recipe = make_recipe(tmp_path / "runs", tmp_path / "adamba")
    save_adamba(tmp_path / "adamba", tokenizer, shape=HALF, tied=False, mlp="relu2")
    save_adamba(recipe.artifact("merged"), tokenizer, shape=HALF, tied=False, mlp="relu2")
    readme = (recipe.artifact("merged") / "README.md").read_text()
    lines = readme.split("```python\n")[1].split("```")[0]
    assert lines.replace("path/to/this/directory", recipe.full_name) in model_card(recipe, "merged")
    assert "AutoPeftModelForCausalLM" in model_card(recipe, "lora")
    code = lines.replace("path/to/this/directory", str(recipe.artifact("merged")))
    code += "print(type(model).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "AdambaForCausalLM"
    plain = save_adamba(recipe.artifact("grafted"), tokenizer, shape=HALF, tied=False)
    assert not (plain / "README.md").exists()
    assert "import agentforge" not in model_card(recipe, "grafted")


@needs_llama_cpp
def test_a_nanochat_graft_has_no_gguf(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = save_adamba(tmp_path, tokenizer, shape=HALF, tied=False, logit_softcap=15.0, mlp="relu2")
    config = json.loads((model / "config.json").read_text())
    with pytest.raises(CheckRefused, match=r"GGUF cannot express logit_softcap=15\.0, mlp=relu2"):
        plan_conversion(config, converter_source())
