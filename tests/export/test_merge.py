"""Merging is exact, keeps what was trained, and refuses what does not belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentforge.artifacts import read_manifest
from agentforge.errors import CheckRefused, UserError
from agentforge.export.lora_weights import LoraAdapter, combine
from agentforge.export.merge import merge_stage
from agentforge.models.checkpoint import Checkpoint
from tests.export.export_models import MakeBase, make_adapter, make_recipe


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 120)[None]
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def merged_model(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True, "r": 8},
        {"use_dora": True},
        {
            "target_modules": "all-linear",
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"layers.1.self_attn.v_proj": 5},
        },
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens", "lm_head", "o_proj"]},
    ],
    ids=["plain", "rslora", "dora", "patterns", "head", "both-embeddings", "lora-embeddings"],
)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_merged_equals_peft(tmp_path: Path, make_base: MakeBase, tied: bool, lora: dict[str, Any]) -> None:
    """The written checkpoint computes what the live PEFT model computes, also where a tied base has a trained head."""
    base = make_base(tied=tied)
    recipe = make_recipe(tmp_path, base)
    live = make_adapter(base, recipe.trained, **lora)
    expected = logits(live)
    merged = merged_model(merge_stage(recipe))
    assert (logits(merged) - expected).abs().max() < 1e-4
    if tied and "target_modules" not in lora and "modules_to_save" in lora:
        assert not merged.config.tie_word_embeddings
    elif not lora:
        assert merged.config.tie_word_embeddings == tied


def test_weights_equal_merge_and_unload(tmp_path: Path, base: Path) -> None:
    recipe = make_recipe(tmp_path, base)
    reference = make_adapter(base, recipe.trained).merge_and_unload().state_dict()
    found = Checkpoint(merge_stage(recipe))
    assert set(found.tensors) == set(reference) - ({"lm_head.weight"} - set(found.tensors))
    for name in found.tensors:
        torch.testing.assert_close(found.read(name), reference[name], rtol=0, atol=1e-6)
    assert found.files == Checkpoint(base).files
    assert len(found.files) > 1


def test_tying_asked_for_is_kept(tmp_path: Path, make_base: MakeBase) -> None:
    base = make_base(tied=True)
    recipe = make_recipe(tmp_path, base)
    live = make_adapter(base, recipe.trained, modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    expected = logits(live)
    merged = merged_model(merge_stage(recipe))
    assert merged.config.tie_word_embeddings
    assert (logits(merged) - expected).abs().max() < 1e-4


def test_grown_vocabulary(tmp_path: Path, base: Path) -> None:
    recipe = make_recipe(tmp_path, base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    old = model.config.vocab_size
    model.resize_token_embeddings(old + 8)
    from peft import LoraConfig, get_peft_model

    live = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")).eval()
    live.save_pretrained(recipe.trained, save_embedding_layers=True)
    AutoTokenizer.from_pretrained(base).save_pretrained(recipe.trained)
    merged = merged_model(merge_stage(recipe))
    assert merged.config.vocab_size == old + 8
    assert (logits(merged) - logits(live)).abs().max() < 1e-4


def test_several_adapters_are_exact_sums(tmp_path: Path, base: Path) -> None:
    """Regression: weighting both factors gives w^2, and summing factors adds cross terms (relative error 0.8)."""
    recipe = make_recipe(tmp_path, base, adapters={str(tmp_path / "second"): 0.7})
    make_adapter(base, recipe.trained, seed=1)
    make_adapter(base, tmp_path / "second", seed=2)
    start = {n: Checkpoint(base).read(n) for n in Checkpoint(base).tensors}

    def full(directory: Path) -> dict[str, torch.Tensor]:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), directory)
        return {n: t - start[n] for n, t in model.merge_and_unload().state_dict().items()}

    first, second = full(recipe.trained), full(tmp_path / "second")
    merged = Checkpoint(merge_stage(recipe))
    name = "model.layers.0.self_attn.q_proj.weight"
    delta = merged.read(name) - start[name]
    exact = first[name] + 0.7 * second[name]
    assert (delta - exact).norm() / exact.norm() < 1e-5
    squared = first[name] + 0.49 * second[name]
    assert (delta - squared).norm() / exact.norm() > 0.1


def test_a_single_weight_is_not_squared(tmp_path: Path, base: Path) -> None:
    make_adapter(base, tmp_path / "a")
    name = "model.layers.1.mlp.down_proj.weight"
    weight = Checkpoint(base).read(name)
    whole, part = (combine([LoraAdapter(tmp_path / "a", w)])[name].apply(weight) - weight for w in (1.0, 0.7))
    torch.testing.assert_close(part, 0.7 * whole, rtol=1e-4, atol=1e-6)


def test_rounding_to_bfloat16_is_reported_not_hidden(tmp_path: Path, base: Path) -> None:
    recipe = make_recipe(tmp_path, base, dtype="bfloat16")
    make_adapter(base, recipe.trained)
    target = merge_stage(recipe)
    figures = read_manifest(target)["metrics"]
    assert figures["max_logit_difference"] < 1e-3 < figures["published"]["max_difference"]
    assert figures["published"]["kl"] < 0.01
    assert {info.dtype for info in Checkpoint(target).tensors.values()} == {"BF16"}
    assert not (target / "float32").exists()
    assert json.loads((target / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoTokenizer.from_pretrained(target).encode("ls -la") == AutoTokenizer.from_pretrained(base).encode(
        "ls -la"
    )


def test_difference_above_the_bound_publishes_nothing(tmp_path: Path, base: Path) -> None:
    recipe = make_recipe(tmp_path, base, max_logit_difference=1e-12)
    make_adapter(base, recipe.trained)
    with pytest.raises(CheckRefused, match=r"differ from base \+ adapter by up to .* nothing was published"):
        merge_stage(recipe)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Tiny-v1.0.0-lora"]


def test_second_run_does_nothing_and_another_adapter_is_noticed(tmp_path: Path, base: Path) -> None:
    recipe = make_recipe(tmp_path, base)
    make_adapter(base, recipe.trained)
    target = merge_stage(recipe)
    before = (target / "manifest.json").stat().st_mtime_ns
    assert merge_stage(recipe) == target
    assert (target / "manifest.json").stat().st_mtime_ns == before
    make_adapter(base, recipe.trained, seed=5)
    with pytest.raises(CheckRefused, match="adapter 0 has changed"):
        merge_stage(recipe)
    merge_stage(recipe, replace=True)
    assert (target / "manifest.json").stat().st_mtime_ns > before


def test_wrong_base_of_the_same_shape(tmp_path: Path, base: Path, make_base: MakeBase) -> None:
    recipe = make_recipe(tmp_path, make_base(seed=9, max_shard_size="200KB"))
    make_adapter(base, recipe.trained)
    with pytest.raises(CheckRefused, match="adapter on the wrong base"):
        merge_stage(recipe)


def test_wrong_base_without_a_record(tmp_path: Path, base: Path, make_base: MakeBase) -> None:
    recipe = make_recipe(tmp_path, make_base(seed=9))
    make_adapter(base, recipe.trained, record=False)
    with pytest.raises(CheckRefused, match="adapter on the wrong base"):
        merge_stage(recipe)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 48}, "belongs to another base"),
        ({"num_hidden_layers": 1}, "does not have: it belongs to another"),
    ],
)
def test_wrong_shapes(tmp_path: Path, base: Path, make_base: MakeBase, change: dict[str, int], message: str) -> None:
    recipe = make_recipe(tmp_path, make_base(**change))
    make_adapter(base, recipe.trained, record=False)
    config = recipe.trained / "adapter_config.json"
    config.write_text(config.read_text().replace(str(base), str(recipe.model.path)))
    with pytest.raises(CheckRefused, match=message):
        merge_stage(recipe)


def test_truncated_shard_is_named(tmp_path: Path, base: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    recipe = make_recipe(tmp_path, broken)
    make_adapter(base, recipe.trained, record=False)
    shard = broken / Checkpoint(base).files[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckRefused, match=rf"{shard.name} is damaged or truncated"):
        merge_stage(recipe)
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(CheckRefused, match=rf"{shard.name} is damaged or truncated"):
        merge_stage(recipe)
    shard.unlink()
    with pytest.raises(CheckRefused, match=f"lacks the shard {shard.name}"):
        merge_stage(recipe)


def test_nothing_to_merge(tmp_path: Path, base: Path) -> None:
    recipe = make_recipe(tmp_path, base)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lora": None})})
    with pytest.raises(CheckRefused, match="nothing to merge: the recipe trains all weights"):
        merge_stage(recipe)


def test_no_adapter_yet(tmp_path: Path, base: Path) -> None:
    with pytest.raises(UserError, match="run train first"):
        merge_stage(make_recipe(tmp_path, base))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"trainable_token_indices": [1, 2]}, "cannot be merged shard by shard"),
        ({"lora_bias": True}, "cannot be merged"),
    ],
)
def test_what_cannot_be_merged_is_refused(tmp_path: Path, base: Path, lora: dict[str, Any], message: str) -> None:
    make_adapter(base, tmp_path / "a", **lora)
    with pytest.raises(CheckRefused, match=message):
        LoraAdapter(tmp_path / "a").changes()


def test_sums_without_a_meaning_are_refused(tmp_path: Path, base: Path) -> None:
    make_adapter(base, tmp_path / "plain")
    for name, lora in {"dora": {"use_dora": True}, "head": {"modules_to_save": ["lm_head"]}}.items():
        make_adapter(base, tmp_path / name, **lora)
        with pytest.raises(CheckRefused, match="it can only be merged alone"):
            combine([LoraAdapter(tmp_path / "plain"), LoraAdapter(tmp_path / name)])
