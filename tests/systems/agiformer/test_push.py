"""What `push` sends of an AGIFORMER is a whole model: it opens from what a Hub has received."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, AutoTokenizer

import agentforge.systems.agiformer.auto  # noqa: F401
from agentforge.artifacts import stage_directory
from agentforge.export.push import push
from agentforge.recipe.schema import Recipe
from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.tokenizer import AgiformerTokenizer


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for the Hub: repositories that were made, with what was uploaded to them."""
    directory = tmp_path / "hub"

    def create(_: HfApi, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert private and exist_ok
        (directory / repo_id).mkdir(parents=True)

    def upload(_: HfApi, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        shutil.copytree(folder_path, directory / repo_id, dirs_exist_ok=True)

    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    return directory


def trained(tmp_path: Path) -> tuple[Recipe, AgiformerForCausalLM]:
    fields: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "ngram_sizes": [2],
                              "ngram_buckets": 64}  # fmt: skip
    recipe = Recipe.model_validate(
        {
            "name": "A",
            "output_dir": str(tmp_path / "runs"),
            "model": {"config": {"model_type": "agiformer", **fields}, "tokenizer": "bytes"},
            "train": {"method": "pretrain", "args": {"max_steps": 1}},
            "export": {"hub_repo": "me/bytes"},
        }
    )
    model = AgiformerForCausalLM(AgiformerConfig(**fields)).eval()
    with stage_directory(recipe.trained, stage="train", recipe={}) as work:
        model.save_pretrained(work.path)
        AgiformerTokenizer().save_pretrained(work.path)
        work.metrics.update(steps=1, tokens=64)
    return recipe, model


def test_what_the_hub_receives_opens_and_says_the_same(tmp_path: Path, hub: Path) -> None:
    recipe, model = trained(tmp_path)
    assert push(recipe, "model").sent
    received = hub / "me/bytes"
    assert {"README.md", "config.json", "model.safetensors", "tokenizer_config.json"} <= {
        path.name for path in received.iterdir()
    }
    tokens = AutoTokenizer.from_pretrained(received)("Grüße", return_tensors="pt").input_ids
    again = AutoModelForCausalLM.from_pretrained(received).eval()
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_the_code_on_the_card_opens_it(tmp_path: Path, hub: Path) -> None:
    recipe, _ = trained(tmp_path)
    push(recipe, "model")
    card = (hub / "me/bytes/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert '"me/bytes"' in code
    exec(code.replace("me/bytes", str(hub / "me/bytes")).replace("max_new_tokens=200", "max_new_tokens=3"), {})
