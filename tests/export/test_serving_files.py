"""The files that serve a model are what the recipe says, and are valid where they are read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from agentforge.errors import CheckRefused
from agentforge.export.deploy import deployment
from agentforge.export.serving_files import template_kind, vllm_server, write_deployment
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def aj() -> Recipe:
    return load_recipe("aj")


def test_committed_files_are_what_the_code_writes() -> None:
    """If this fails: agentforge deploy aj deploy"""
    written = deployment("aj", "deploy").files
    assert {path.name for path in DEPLOY.iterdir()} == set(written)
    for name, text in written.items():
        assert (DEPLOY / name).read_text(encoding="utf-8") == text, name


def test_names_of_the_spec(aj: Recipe) -> None:
    assert "FROM ./AJ-DeepSeekR1Qwen32B-v2.0.0-q4km.gguf" in deployment("aj", "deploy").files["Modelfile"]
    assert "AJ-DeepSeekR1Qwen32B-v2.0.0-merged" in vllm_server(aj, adapter=False)[2]


@pytest.mark.parametrize(("rank", "allowed"), [(4, "8"), (64, "64"), (100, "128")])
def test_vllm_is_told_the_rank(aj: Recipe, rank: int, allowed: str) -> None:
    """Its default is 16; an adapter of 64 is refused at start."""
    train = aj.train.model_copy(update={"lora": {"r": rank}})
    command = vllm_server(aj.model_copy(update={"train": train}), adapter=True)
    assert command[command.index("--max-lora-rank") + 1] == allowed


def test_rank_beyond_vllm(aj: Recipe) -> None:
    train = aj.train.model_copy(update={"lora": {"r": 1024}})
    with pytest.raises(CheckRefused, match=r"train\.lora\.r is 1024"):
        vllm_server(aj.model_copy(update={"train": train}), adapter=True)


def test_an_adapter_with_tokens_of_its_own_is_merged_for_vllm(aj: Recipe) -> None:
    data = aj.data.model_copy(update={"add_tokens": ["<|im_start|>"]})
    with pytest.raises(CheckRefused, match="tokens its base lacks"):
        vllm_server(aj.model_copy(update={"data": data}), adapter=True)


def test_whose_turn_markers(aj: Recipe) -> None:
    """A template that is not known without its tokenizer has no translation for Ollama."""
    assert template_kind(aj) == "deepseek_r1"
    assert template_kind(load_recipe("aj", profile="tiny")) == "chatml"
    own = aj.model_copy(update={"data": aj.data.model_copy(update={"template": "auto"})})
    assert template_kind(own) is None


def test_beside_a_gguf(aj: Recipe, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    write_deployment(aj, "q8", tmp_path, tokenizer, positions=4096)
    modelfile = (tmp_path / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./AJ-DeepSeekR1Qwen32B-v2.0.0-q8.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in modelfile  # the tokenizer's own markers, whatever the base is called
    assert 'PARAMETER stop "<|endoftext|>"' in modelfile
    assert "PARAMETER num_ctx 4096" in modelfile
    assert modelfile.count('"""') % 2 == 0
    subprocess.run(["sh", "-n", tmp_path / "llama-server.sh"], check=True)
