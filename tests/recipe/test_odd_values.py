"""Whatever stands in a recipe: it is loaded, or refused in sentences. Nothing else comes out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentforge.errors import UserError
from agentforge.planning.shapes import known_models
from agentforge.recipe.explain import all_keys
from agentforge.recipe.hardware import load_hardware
from agentforge.recipe.loading import Origin, load_recipe, validate
from agentforge.recipe.methods import METHODS, config_classes
from agentforge.recipe.overrides import apply_override
from agentforge.recipe.tables import fields_of

# Every optional section is there, so that every key can be reached.
WHOLE: dict[str, Any] = {
    "name": "x",
    "data": {"mix": [{"dataset": "rows.jsonl", "filters": {}}]},
    "model": {"config": {"model_type": "qwen3", "hidden_size": 64}},
    "train": {
        "lora": {"r": 4},
        "distill": {"teacher": "t"},
        "nested": {},
        "exits": {"layers": [1]},
        "curriculum": {},
        "rewards": [{}],
    },
    "evaluate": {"tool_calls": {"prompts": "p"}, "environments": {}, "loss": {}},
    "environments": {"sat": {}},
    "stages": [{"verb": "train"}],
}
LISTS = ("data.mix.", "train.rewards.", "stages.")


def keys() -> list[str]:
    found = list(all_keys())
    for section in LISTS:
        found = [key.replace(section, f"{section}0.") for key in found]
    for config in config_classes():
        found += [f"train.args.{field}" for field in fields_of(config)]
    found += [f"train.lora.{field}" for field in fields_of("LoraConfig")]
    found += [f"model.config.{field}" for field in ("hidden_size", "num_attention_heads", "model_type", "x")]
    return sorted(
        {*found, "environments.sat", "environments.sat.x", "nokey", "train.nokey.x", "data.mix.0", "stages.0"}
    )


ODD_TEXTS = ["", " ", "((", "../x", "1e5", "x" * 300, "\0", "\ud800", "a\nb", "%s{x}", "{", "~", "\N{SUPERSCRIPT TWO}"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.sampled_from([10**30, -(10**30)])
    | st.floats()
    | st.sampled_from(ODD_TEXTS)
    | st.text(max_size=3)
)
NAMES = st.sampled_from(["", "x", "dataset", "weight", "verb", "r", "\0"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2), max_leaves=4
)


@settings(max_examples=800, deadline=None)
@given(st.sampled_from(keys()), VALUES, st.sampled_from([*METHODS, None]))
def test_any_value_of_any_key_is_loaded_or_refused_in_sentences(key: str, value: Any, method: str | None) -> None:
    raw = copy.deepcopy(WHOLE)
    if method is not None:
        raw["train"]["method"] = method
    apply_override(raw, key, value)
    try:
        validate(raw, Origin("x"))
    except UserError as error:
        assert str(error).strip()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.mix.0.weight=.inf", "data.mix.0.weight is inf; it must be a finite number"),
        ("train.rewards=[{options: {scale: .nan}}]", "train.rewards.0.options.scale is nan"),
        ("model.config.rope_theta=.inf", "model.config.rope_theta is inf"),
        ("model.config.hidden_size=big", "model.config.hidden_size is 'big'; it must be a whole number of at least 1"),
        ("model.config.num_attention_heads=0", "model.config.num_attention_heads is 0; it must be a whole number"),
        ("model.config.model_type=[1]", "model.config.model_type is [1]; it must be text"),
        ("train.lora.target_modules='(('", "which peft reads as a regular expression, and it is none"),
        ("train.lora.rank_pattern={'((': 8}", "which peft reads as a regular expression, and it is none"),
        ("hardware=" + "x" * 300, "there is no hardware"),
        ('output_dir="\\0"', "output_dir holds a character that no file name"),
        ("seed=4294967296", "less than 4294967296"),
        ("seed=!!bool x", "seed is '!!bool x'; it must be a whole number"),
        ("environments={a: &a {b: *a}}", "more than 50 deep, or in themselves"),
        ("data.mix=" + "[" * 60 + "]" * 60, "more than 50 deep"),
        ("data.mix.²=1", "'²' must be an index from 0 to 0"),
        ("train..args=1", "is not an override"),
        ("extends=x.yaml", "cannot be overridden"),
    ],
)
def test_values_that_once_gave_a_traceback(override: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\ndata: {mix: [{dataset: r.jsonl}]}\ntrain: {lora: {r: 4}}\n")
    with pytest.raises(UserError) as refused:
        load_recipe(str(tmp_path / "r.yaml"), [override])
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("base: 3", "base must be a mapping of config fields, it is 3"),
        ("base:", "base must be a mapping of config fields, it is None"),
        ("base: {model_type: qwen3, hidden_size: big}", "base: hidden_size is 'big'; it must be a whole number"),
        ("base: {model_type: qwen3, num_hidden_layers: []}", "base: num_hidden_layers is []"),
    ],
)
def test_a_malformed_entry_of_the_known_models_names_its_file(
    entry: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "own.yaml").write_text(entry)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        known_models()
    assert "configs/models/own.yaml: " + says in str(refused.value)


def test_hardware_with_an_infinite_price_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "hardware").mkdir(parents=True)
    shipped = (Path(__file__).parents[2] / "configs" / "hardware" / "1xh200.yaml").read_text()
    own = tmp_path / "configs" / "hardware" / "own.yaml"
    own.write_text(
        "".join(line for line in shipped.splitlines(True) if "dollars" not in line) + "\ndollars_per_gpu_hour: .inf\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"own\.yaml: dollars_per_gpu_hour: Input should be a finite number"):
        load_hardware("own")
