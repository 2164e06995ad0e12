"""A GGUF is published only if it loads, reads text as the checkpoint does, and gives the same distributions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from agentforge.artifacts import read_manifest
from agentforge.data.chat_template import GENERATION_TAG, serving_template
from agentforge.errors import CheckRefused, UserError
from agentforge.export.check_gguf import check_file
from agentforge.export.convert import is_qwen2_pre_tokenizer, plan_conversion, tensor_types
from agentforge.export.gguf import Unquantized, gguf
from agentforge.export.gguf_metadata import general_fields, gguf_metadata
from agentforge.export.llama_cpp import converter_source
from agentforge.export.merge import merge_stage
from agentforge.recipe.schema import Recipe
from tests.export.export_models import MakeBase, make_adapter, make_recipe, needs_llama_cpp
from tests.manifests import reseal, write_manifest

pytestmark = [pytest.mark.gguf, needs_llama_cpp]

# Random weights are harder to quantise than trained ones; these tests are about the machinery.
LOOSE = {
    "max_kl": {"f16": 1e-3, "q8": 5e-3, "q5km": 0.2, "q4km": 0.2},
    "min_top1": {"f16": 0.98, "q8": 0.9, "q5km": 0.5, "q4km": 0.5},
}


@pytest.fixture(scope="module")
def wide_base(make_base: MakeBase) -> Path:
    """256 wide: rows that K-quants fit into. Tied, as small models are."""
    return make_base(tied=True, hidden_size=256, intermediate_size=256, initializer_range=0.06)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, wide_base: Path) -> Recipe:
    """A recipe whose adapter is merged, in bfloat16, the dtype of real models."""
    recipe = make_recipe(tmp_path_factory.mktemp("runs"), wide_base, dtype="bfloat16", gguf=["q8", "q4km"], **LOOSE)
    make_adapter(wide_base, recipe.trained)
    Unquantized(recipe, merge_stage(recipe)).make()
    return recipe


def with_export(recipe: Recipe, **export: Any) -> Recipe:
    return recipe.model_copy(update={"export": recipe.export.model_copy(update=export)})


def copy_of(recipe: Recipe, directory: Path) -> Recipe:
    """The same recipe in another output directory, with its merged model and, as after a kill, the conversion of it."""
    copied = recipe.model_copy(update={"output_dir": str(directory)})
    shutil.copytree(recipe.artifact("merged"), copied.artifact("merged"))
    shutil.copytree(unquantized(recipe).directory, unquantized(copied).directory)
    return copied


def unquantized(recipe: Recipe) -> Unquantized:
    return Unquantized(recipe, recipe.artifact("merged"))


def test_every_quantization(tmp_path: Path, merged: Recipe) -> None:
    recipe = with_export(copy_of(merged, tmp_path), gguf=["f16", "q8", "q5km", "q4km"])
    made = gguf(recipe)
    assert [path.name for path in made] == [f"Tiny-v1.0.0-{q}" for q in ("f16", "q8", "q5km", "q4km")]
    figures = {path.name.rsplit("-", 1)[1]: read_manifest(path)["metrics"] for path in made}
    assert figures["f16"]["kl"] < figures["q8"]["kl"] < figures["q5km"]["kl"] < figures["q4km"]["kl"]
    assert figures["f16"]["bytes"] > figures["q8"]["bytes"] > figures["q5km"]["bytes"] > figures["q4km"]["bytes"]
    assert all(figure["tokens"] >= 256 for figure in figures.values())
    assert "Q4_K" in figures["q4km"]["tensor_types"]
    assert {file.name for file in made[1].iterdir()} == {
        "Tiny-v1.0.0-q8.gguf",
        "Modelfile",
        "llama-server.sh",
        "manifest.json",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["Tiny-v1.0.0-merged", *(p.name for p in made)])

    before = [(path / "manifest.json").stat().st_mtime_ns for path in made]
    assert gguf(recipe) == made
    assert [(path / "manifest.json").stat().st_mtime_ns for path in made] == before


def test_template_for_serving_is_inside(tmp_path: Path, merged: Recipe) -> None:
    """llama.cpp's Jinja does not know {% generation %}; the template in the file has none, and is ours otherwise."""
    (made,) = gguf(with_export(copy_of(merged, tmp_path), gguf=["q8"]))
    tokenizer = AutoTokenizer.from_pretrained(merged.artifact("merged"))
    from gguf import GGUFReader  # installed by make gguf-setup only

    inside = {name: field.contents() for name, field in GGUFReader(made / "Tiny-v1.0.0-q8.gguf").fields.items()}
    assert inside["tokenizer.chat_template"] == serving_template(tokenizer)
    assert not GENERATION_TAG.search(inside["tokenizer.chat_template"])
    assert GENERATION_TAG.search(tokenizer.chat_template)
    assert inside["tokenizer.ggml.eos_token_id"] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert inside["tokenizer.ggml.pre"] == "qwen2"


def test_the_file_says_what_it_is(tmp_path: Path, merged: Recipe) -> None:
    """As llama.cpp's own tool reads it. Regression: every file was called "View", the converter's directory."""
    recipe = with_export(copy_of(merged, tmp_path), gguf=["q8"], license="apache-2.0", hub_repo="someone/Tiny-Agent")
    recipe = recipe.model_copy(update={"description": "An agent for tests."})
    (recipe.artifact("merged") / "README.md").write_text("---\nlicense: mit\nname: the base\n---\n")
    original = unquantized(recipe)
    original.remove()
    (made,) = gguf(recipe)
    tool = converter_source() / "gguf-py" / "gguf" / "scripts" / "gguf_dump.py"
    command = [sys.executable, str(tool), "--json", "--no-tensors", str(made / "Tiny-v1.0.0-q8.gguf")]
    dumped = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["metadata"]
    said = {name: entry["value"] for name, entry in dumped.items() if name.startswith("general.")}
    assert said.pop("general.size_label") == "646K"
    assert said == {
        "general.architecture": "qwen3",
        "general.type": "model",
        "general.name": "Tiny",
        "general.version": "1.0.0",
        "general.basename": "Tiny",
        "general.description": "An agent for tests.",
        "general.license": "apache-2.0",
        "general.author": "someone",
        "general.organization": "someone",
        "general.repo_url": "https://huggingface.co/someone/Tiny-Agent",
        "general.base_model.count": 1,
        "general.base_model.0.name": Path(str(recipe.model.path)).name,
        "general.quantization_version": 2,
        "general.file_type": 7,
    }


def test_where_a_base_comes_from(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, tmp_path)
    of_the_hub = {"path": "Qwen/Qwen2.5-7B", "revision": "abc123"}
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=of_the_hub)})
    fields = general_fields(gguf_metadata(recipe))
    assert {key: value for key, value in fields.items() if "base_model" in key} == {
        "general.base_model.count": 1,
        "general.base_model.0.name": "Qwen2.5-7B",
        "general.base_model.0.organization": "Qwen",
        "general.base_model.0.version": "abc123",
        "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen2.5-7B",
    }
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": None})})
    assert not any("base_model" in key for key in general_fields(gguf_metadata(recipe)))


def test_a_bad_file_is_not_published(tmp_path: Path, merged: Recipe) -> None:
    recipe = with_export(
        copy_of(merged, tmp_path), max_kl={"q8": 0.01, "q4km": 1e-7}, min_top1={"q8": 0.5, "q4km": 0.5}
    )
    with pytest.raises(
        CheckRefused, match=r"q4km disagrees .* KL 0\.\d+ .*same top token \d+\.\d%.* was not published"
    ):
        gguf(recipe)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Tiny-v1.0.0-merged", "Tiny-v1.0.0-q8"]


def test_bfloat16_is_not_squeezed_through_float16(tmp_path: Path, merged: Recipe) -> None:
    """Regression: the first implementation converted bfloat16 weights with --outtype f16."""
    original = unquantized(copy_of(merged, tmp_path))
    written = original.file.stat().st_mtime_ns
    original.make()
    assert original.file.stat().st_mtime_ns == written  # a killed run's conversion is used again
    assert set(tensor_types(original.file)) == {"BF16", "F32"}
    assert check_file(original.file, original.reference()).text.kl < 1e-4
    original.file.write_bytes(original.file.read_bytes()[:-1000])
    with pytest.raises(CheckRefused, match=r"model\.gguf is damaged"):
        check_file(original.file, original.reference())


def test_all_weights_trained(tmp_path: Path, wide_base: Path) -> None:
    recipe = make_recipe(tmp_path, wide_base, gguf=["q8"], **LOOSE)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lora": None})})
    with pytest.raises(UserError, match="-model does not exist; run the stage that makes it first"):
        gguf(recipe)
    shutil.copytree(wide_base, recipe.trained)
    write_manifest(recipe.trained)
    (made,) = gguf(recipe)
    assert read_manifest(made)["metrics"]["kl"] < 5e-3


def test_tokenizer_that_reads_otherwise_is_refused(tmp_path: Path, merged: Recipe) -> None:
    original = unquantized(copy_of(merged, tmp_path))
    described = json.loads(original.tokenizer.backend_tokenizer.to_str())
    described["model"]["merges"] = described["model"]["merges"][:5]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)), eos_token="<|im_end|>")
    with pytest.raises(CheckRefused, match=r"merges"):
        check_file(original.file, replace(original.reference(), tokenizer=other))
    with pytest.raises(CheckRefused, match="chat template differs"):
        check_file(original.file, replace(original.reference(), template="{{ messages }}"))


def test_unknown_pre_tokenizer_is_refused(tmp_path: Path, merged: Recipe) -> None:
    recipe = copy_of(merged, tmp_path)
    unquantized(recipe).remove()
    file = recipe.artifact("merged") / "tokenizer.json"
    assert is_qwen2_pre_tokenizer(file)
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.save(str(file))
    assert not is_qwen2_pre_tokenizer(file)
    reseal(recipe.artifact("merged"))
    with pytest.raises(CheckRefused, match="does not know how this tokenizer splits text"):
        gguf(recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny-v1.0.0-merged"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["AdambaForCausalLM"]}, "GGUF has no architecture for AdambaForCausalLM"),
        ({}, "GGUF has no architecture for none"),
        ({"architectures": ["Qwen3MoeForCausalLM"]}, "norm_topk_prob=false"),
        ({"architectures": ["NemotronHForCausalLM"]}, "cannot load what its converter makes"),
    ],
)
def test_architectures_that_would_be_wrong(config: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckRefused, match=message):
        plan_conversion(config, converter_source())


def test_architectures_that_need_telling() -> None:
    tree = converter_source()
    assert plan_conversion({"architectures": ["Qwen2ForCausalLM"]}, tree).arguments == ()
    assert plan_conversion({"architectures": ["Qwen3MoeForCausalLM"], "norm_topk_prob": True}, tree).config == {}
    assert plan_conversion({"architectures": ["Qwen3NextForCausalLM"]}, tree).arguments == ("--no-mtp",)
    granite = {"architectures": ["GraniteMoeHybridForCausalLM"], "layer_types": ["linear_attention", "full_attention"]}
    assert plan_conversion(granite, tree).config == {"layer_types": ["mamba", "attention"]}


def test_a_worker_ends_with_its_parent() -> None:
    """kill -9 of a stage leaves nothing behind that writes into the directory of the next run."""
    code = (
        "import subprocess, sys, time\n"
        "child = 'from agentforge.export.llama_worker import die_with_parent, os; die_with_parent();'\n"
        "child += 'print(1); import time; time.sleep(60)'\n"
        "process = subprocess.Popen([sys.executable, '-uc', child], stdout=subprocess.PIPE)\n"
        "process.stdout.read(1)\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = Path("/proc") / parent.stdout.readline().strip()
        assert "die_with_parent" in (child / "cmdline").read_text()
        parent.kill()
    deadline = time.monotonic() + 10
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
