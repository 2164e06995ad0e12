"""The files that serve a model are what the recipe says, and are valid where they are read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedTokenizerFast

from agentforge.data.chat_template import MARKERS
from agentforge.errors import CheckRefused
from agentforge.export.deployment import deployment_files, template_kind, vllm_server, write_deployment
from agentforge.export.ollama import go_template
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import Recipe

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def aj() -> Recipe:
    return load_recipe("aj")


def test_committed_files_are_what_the_code_writes(aj: Recipe) -> None:
    """If this fails: python -m agentforge.export.deployment aj deploy"""
    written = deployment_files(aj, "aj")
    assert {path.name for path in DEPLOY.iterdir()} == set(written)
    for name, text in written.items():
        assert (DEPLOY / name).read_text(encoding="utf-8") == text, name


def test_they_can_be_read(aj: Recipe) -> None:
    for script in DEPLOY.glob("*.sh"):
        subprocess.run(["sh", "-n", script], check=True)
        assert script.stat().st_mode & 0o111
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    assert task["resources"]["accelerators"] == "H200:1"
    for step in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[step], text=True, check=True)
    makefile = (DEPLOY.parent / "Makefile").read_text()
    targets = re.search(r"^  make (.*) PROFILE=1xh200$", (DEPLOY / "skypilot.yaml").read_text(), re.M)
    assert targets
    for target in targets[1].split():
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_names_of_the_spec(aj: Recipe) -> None:
    assert "FROM ./AJ-DeepSeekR1Qwen32B-v2.0.0-q4km.gguf" in deployment_files(aj, "aj")["Modelfile"]
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


def test_whose_turn_markers(aj: Recipe) -> None:
    assert template_kind(aj) == "deepseek_r1"
    assert template_kind(load_recipe("aj", profile="tiny")) == "chatml"


@pytest.mark.parametrize("kind", sorted(MARKERS))
def test_go_template(kind: str) -> None:
    template = go_template(kind, begin=True)
    words = re.findall(r"\{\{- (if|range|end)\b", template)
    assert words.count("if") + words.count("range") == words.count("end")
    outside = re.sub(r"\{\{-.*?-\}\}", "", template)
    assert outside.split() == ["<tool_call>"], "only the tag that Ollama looks for stands outside the braces"
    for text in MARKERS[kind].texts.values():
        assert text.strip() in template.replace("\\n", "\n")


def test_beside_a_gguf(aj: Recipe, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    write_deployment(aj, "q8", tmp_path, tokenizer, positions=4096)
    modelfile = (tmp_path / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./AJ-DeepSeekR1Qwen32B-v2.0.0-q8.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"' in modelfile  # the tokenizer's own markers, whatever the base is called
    assert 'PARAMETER stop "<|endoftext|>"' in modelfile
    assert "PARAMETER num_ctx 4096" in modelfile
    assert modelfile.count('"""') % 2 == 0
    subprocess.run(["sh", "-n", tmp_path / "llama-server.sh"], check=True)
