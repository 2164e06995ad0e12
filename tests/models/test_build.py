"""Models from a config or a directory, LoRA on them, and the sentences for what can be wrong with either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agentforge.errors import CheckRefused, UserError
from agentforge.models.build import add_lora, build_model, from_scratch, identify_base, load_model
from agentforge.recipe.schema import Model

TINY = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def tiny(**fields: Any) -> Model:
    return Model(config=TINY | fields)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    from_scratch(tiny(), 64, seed=0).save_pretrained(directory)
    return directory


def test_the_same_seed_makes_the_same_model_and_another_another() -> None:
    first, again, other = (from_scratch(tiny(), 64, seed=seed).get_input_embeddings().weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_weights_that_are_trained_are_held_in_fp32_and_frozen_ones_as_the_recipe_says(saved: Path) -> None:
    model = Model(path=str(saved), dtype="bfloat16")
    assert build_model(model, 64, seed=0, train_all=True).dtype == torch.float32
    frozen = build_model(model, 64, seed=0, train_all=False)
    assert frozen.dtype == torch.bfloat16
    adapter = [
        p for p in add_lora(frozen, {"r": 2, "target_modules": ["q_proj"]}, seed=0).parameters() if p.requires_grad
    ]
    assert {p.dtype for p in adapter} == {torch.float32}


def test_the_number_of_lora_parameters_is_rank_times_widths() -> None:
    model = add_lora(from_scratch(tiny(), 64, seed=0), {"r": 4, "target_modules": ["q_proj", "k_proj"]}, seed=0)
    trainable, _ = model.get_nb_trainable_parameters()
    assert trainable == 2 * 4 * ((64 + 64) + (64 + 32))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "model.path"),
        ({"model_type": "qwen33"}, "did you mean 'qwen3'"),
        (TINY | {"hiden_size": 3}, "did you mean 'hidden_size'"),
        (TINY | {"vocab_size": 8}, "leave it out"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        from_scratch(Model(config=config), 64, seed=0)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/no/such/dir", "does not exist"),
        ("runs/aj/tiny-base", "run the recipe that makes it"),
        (".", "has no config.json"),
    ],
)
def test_a_path_without_a_model_is_refused(
    path: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        load_model(Model(path=path), dtype=torch.float32)


def test_a_hub_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the Hub did not provide it"):
        load_model(Model(path="nobody/nothing"), dtype=torch.float32)


def test_a_truncated_shard_is_named(saved: Path, tmp_path: Path) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckRefused, match=r"model\.safetensors is damaged"):
        load_model(Model(path=str(tmp_path)), dtype=torch.float32)


def test_pickled_weights_are_not_read(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((saved / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be read as a model"):
        load_model(Model(path=str(tmp_path)), dtype=torch.float32)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(saved: Path) -> None:
    with pytest.raises(CheckRefused, match="tokenizer has 65 tokens"):
        build_model(Model(path=str(saved)), 65, seed=0, train_all=True)


def test_target_modules_that_do_not_exist_are_refused_with_those_that_do() -> None:
    with pytest.raises(UserError, match=r"has no query_proj; it has down_proj, .*v_proj"):
        add_lora(from_scratch(tiny(), 64, seed=0), {"target_modules": ["q_proj", "query_proj"]}, seed=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused only without CUDA")
def test_qlora_needs_cuda(saved: Path) -> None:
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        load_model(Model(path=str(saved), quantize="nf4"), dtype=torch.float32)


def test_a_base_is_identified_by_its_files_or_its_config(saved: Path) -> None:
    assert identify_base(Model(path=str(saved))) == saved
    assert identify_base(tiny()) == identify_base(tiny()) != identify_base(tiny(hidden_size=32))
