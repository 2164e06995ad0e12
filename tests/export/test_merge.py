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

from agentforge.artifacts import read_manifest, stage_directory
from agentforge.errors import CheckRefused, UserError
from agentforge.export import merge
from agentforge.export.lora_weights import LoraAdapter, combine
from agentforge.export.merge import merge_stage
from agentforge.models.checkpoint import Checkpoint
from agentforge.recipe.schema import Recipe
from tests.export.export_models import MakeBase, make_adapter, make_recipe
from tests.manifests import flip


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
        {"trainable_token_indices": [50, 3]},
        {"trainable_token_indices": {"embed_tokens": [3, 50], "lm_head": [7]}},
    ],
    ids=["plain", "rslora", "dora", "patterns", "head", "both-embeddings", "lora-embeddings", "rows", "other-rows"],
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


def delta(base: Path, merged: Path) -> torch.Tensor:
    name = "model.layers.0.self_attn.q_proj.weight"
    return Checkpoint(merged).read(name) - Checkpoint(base).read(name)


def test_the_recipes_own_adapter_is_counted_once_with_the_weight_it_is_given(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed in `export.adapters`, it came in with 1.7 instead of 0.7, and so it did in the check."""
    alone = make_recipe(tmp_path / "alone", base)
    make_adapter(base, alone.trained)
    whole = delta(base, merge_stage(alone))
    recipe = make_recipe(tmp_path, base)
    make_adapter(base, recipe.trained)
    # another spelling of the same directory
    own = tmp_path / "link"
    own.symlink_to(recipe.trained)
    recipe = make_recipe(tmp_path, base, adapters={str(own): 0.7})
    torch.testing.assert_close(delta(base, merge_stage(recipe)), 0.7 * whole, rtol=1e-4, atol=1e-6)

    def twice(recipe: Recipe) -> list[LoraAdapter]:
        return [LoraAdapter(recipe.trained), LoraAdapter(own, 0.7)]

    monkeypatch.setattr(merge, "adapters_of", twice)
    with pytest.raises(CheckRefused, match=r"differ from base \+ adapter .* nothing was published"):
        merge_stage(recipe, replace=True)


def test_an_adapter_that_is_listed_twice_is_refused(tmp_path: Path, base: Path) -> None:
    make_adapter(base, tmp_path / "other")
    twice = {str(tmp_path / "other"): 0.7, f"{tmp_path}/./other": 0.3}
    recipe = make_recipe(tmp_path, base, adapters=twice)
    make_adapter(base, recipe.trained)
    with pytest.raises(UserError, match="are the same directory; list it once"):
        merge_stage(recipe)


def as_artifact(directory: Path, stage: str) -> Path:
    """Make a directory that a test has filled an artefact, as the stage leaves it."""
    filled = directory.rename(directory.with_name("filled"))
    with stage_directory(directory, stage=stage, recipe={"lora": stage == "train"}) as work:
        shutil.copytree(filled, work.path, dirs_exist_ok=True)
    shutil.rmtree(filled)
    return directory


def test_an_adapter_that_was_zeroed_after_training_is_not_merged(tmp_path: Path, base: Path) -> None:
    recipe = make_recipe(tmp_path, base)
    make_adapter(base, recipe.trained)
    weights = as_artifact(recipe.trained, "train") / "adapter_model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-4096] + bytes(4096))
    with pytest.raises(CheckRefused, match=r"adapter_model\.safetensors has other bytes than were written"):
        merge_stage(recipe)
    assert not recipe.artifact("merged").exists()
    weights.write_bytes(sound)
    merge_stage(recipe)


def test_a_base_with_a_byte_flipped_after_training_is_another_base(tmp_path: Path, base: Path) -> None:
    """Wherever the byte is: the fingerprint is of every byte of every tensor."""
    recipe = make_recipe(tmp_path, base)
    make_adapter(base, recipe.trained)
    copy = shutil.copytree(base, tmp_path / "base")
    flip(copy / Checkpoint(copy).files[0])
    with pytest.raises(CheckRefused, match="adapter on the wrong base"):
        merge_stage(make_recipe(tmp_path, copy))


def test_moved_inputs_are_the_same_inputs(tmp_path: Path, base: Path) -> None:
    moving = shutil.copytree(base, tmp_path / "base")
    recipe = make_recipe(tmp_path, moving, adapters={str(tmp_path / "second"): 0.5})
    make_adapter(moving, recipe.trained)
    make_adapter(moving, tmp_path / "second", seed=2)
    made = (merge_stage(recipe) / "manifest.json").stat().st_mtime_ns
    moving.rename(tmp_path / "moved")
    (tmp_path / "second").rename(tmp_path / "away")
    recipe = make_recipe(tmp_path, tmp_path / "moved", adapters={str(tmp_path / "away"): 0.5})
    assert (merge_stage(recipe) / "manifest.json").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1e5, r"down_proj\.weight has weights up to .*, and float16 ends at 65,504; set export\.dtype=bfloat16"),
        (float("nan"), r"down_proj\.weight has weights that are NaN or infinite"),
    ],
)
def test_weights_that_cannot_be_published_are_named(tmp_path: Path, base: Path, value: float, words: str) -> None:
    recipe = make_recipe(tmp_path, base, dtype="float16")
    live = make_adapter(base, recipe.trained)
    layer = live.base_model.model.model.layers[1].mlp.down_proj
    with torch.no_grad():
        layer.lora_A["default"].weight[0, 0] = value
        layer.lora_B["default"].weight[:, 0] = 1.0
    live.save_pretrained(recipe.trained)
    with pytest.raises(CheckRefused, match=words):
        merge_stage(recipe)
    assert not recipe.artifact("merged").exists()


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
        ({"lora_bias": True}, "cannot be merged"),
    ],
)
def test_what_cannot_be_merged_is_refused(tmp_path: Path, base: Path, lora: dict[str, Any], message: str) -> None:
    make_adapter(base, tmp_path / "a", **lora)
    with pytest.raises(CheckRefused, match=message):
        LoraAdapter(tmp_path / "a").changes()


def test_sums_without_a_meaning_are_refused(tmp_path: Path, base: Path) -> None:
    make_adapter(base, tmp_path / "plain")
    for name, lora in {
        "dora": {"use_dora": True},
        "head": {"modules_to_save": ["lm_head"]},
        "rows": {"trainable_token_indices": [1, 2]},
    }.items():
        make_adapter(base, tmp_path / name, **lora)
        with pytest.raises(CheckRefused, match="it can only be merged alone"):
            combine([LoraAdapter(tmp_path / "plain"), LoraAdapter(tmp_path / name)])
