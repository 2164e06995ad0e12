"""The schema for editors accepts every shipped recipe and refuses what loading refuses."""

import json
from pathlib import Path

import jsonschema
import pytest

from agentforge.errors import UserError
from agentforge.recipe.json_schema import recipe_json_schema
from agentforge.recipe.loading import find_recipe, load_recipe, merge, read_extended, recipe_names, resolved_yaml
from agentforge.recipe.yaml_files import config_roots, parse_yaml, read_yaml

SCHEMA = recipe_json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_pass(name: str) -> None:
    assert list(VALIDATOR.iter_errors(read_yaml(find_recipe(name)))) == []


SHIPPED = [
    (name, profile)
    for name in recipe_names()
    for profile in [None, *read_extended(find_recipe(name)).get("profiles", {})]
]


@pytest.mark.parametrize(("name", "profile"), SHIPPED)
def test_shipped_recipes_pass_when_they_are_resolved(name: str, profile: str | None) -> None:
    resolved = parse_yaml(resolved_yaml(load_recipe(name, profile=profile)), name)
    assert list(VALIDATOR.iter_errors(resolved)) == []


# Method and what is wrong; everything else is the default.
WRONG: list[tuple[str, dict]] = [
    ("sft", {"datta": {}}),
    ("sft", {"name": "a b"}),
    ("sft", {"name": None}),
    ("sft", {"version": "1.0"}),
    ("sft", {"version": 1.0}),
    ("sft", {"seed": -1}),
    ("sft", {"seed": "42"}),
    ("sft", {"seed": 2**32}),
    ("sft", {"budget": {"max_cost": 0}}),
    ("sft", {"model": {"dtype": "fp32"}}),
    ("sft", {"model": {"quantize": True}}),
    ("sft", {"model": {"tokenizer": {"vocab_size": 10}}}),
    ("sft", {"model": {"config": {"hidden_size": "big"}}}),
    ("sft", {"model": {"config": {"num_attention_heads": 0}}}),
    ("sft", {"model": {"config": {"intermediate_size": []}}}),
    ("sft", {"model": {"config": {"model_type": 3}}}),
    ("sft", {"model": {"config": {"tie_word_embeddings": "no"}}}),
    ("sft", {"data": None}),
    ("sft", {"data": {"mix": {"dataset": "x"}}}),
    ("sft", {"data": {"mix": [{"weight": 1.0}]}}),
    ("sft", {"data": {"mix": [{"dataset": "x", "weight": 0}]}}),
    ("sft", {"data": {"mix": [{"dataset": "x", "wieght": 1}]}}),
    ("sft", {"data": {"filters": {"max_ngram_repetition": 1.5}}}),
    ("sft", {"data": {"overflow": "cut"}}),
    ("sft", {"data": {"max_length": 8}}),
    ("sft", {"train": {"args": {"max_length": 8}}}),
    ("sft", {"train": {"args": {"num_generations": 4}}}),
    ("sft", {"train": {"args": {"learning_rate": "1e-4"}}}),
    ("sft", {"train": {"args": {"learning_rate": -1}}}),
    ("sft", {"train": {"args": {"report_to": ["wandbb"]}}}),
    ("sft", {"train": {"args": []}}),
    ("sft", {"train": {"lora": {"r": 0}}}),
    ("sft", {"train": {"lora": {"task_type": "CAUSAL_LM"}}}),
    ("sft", {"train": {"rewards": [{"weight": "x"}]}}),
    ("pretrain", {"train": {"args": {"packing": "no"}}}),
    ("dpo", {"train": {"args": {"packing": True}}}),
    ("ppo", {"train": {"args": {"num_iterations": 2}}}),
    ("ppo", {"train": {"args": {"num_generations": 8}}}),
    ("grpo", {"train": {"args": {"use_vllm": True}}}),
    ("dpo", {"train": {"args": {"loss_type": 3}}}),
    ("kto", {"train": {"args": {"ppo_epochs": 4}}}),
    ("rl", {}),
    ("sft", {"environments": {"sat": 3}}),
    ("sft", {"environments": ["sat"]}),
    ("sft", {"rollouts": {"top_p": 0}}),
    ("sft", {"export": {"gguf": ["q9"]}}),
    ("sft", {"export": {"max_kl": {"q9": 0.1}}}),
    ("sft", {"export": {"adapters": ["a"]}}),
    ("sft", {"surgery": {"operation": "grow"}}),
    ("sft", {"stages": [{"verb": "trian"}]}),
    ("sft", {"stages": [{"recipe": "aj"}]}),
    ("sft", {"extends": 3}),
    ("sft", {"extends": ["a.yaml"]}),
    ("sft", {"profiles": []}),
    ("sft", {"profiles": {"tiny": []}}),
    ("sft", {"profiles": {"tiny": {"seed": "x"}}}),
    ("sft", {"profiles": {"tiny": {"profiles": {}}}}),
]


@pytest.mark.parametrize("method", ["sft", "pretrain"])
def test_rows_may_be_packed_or_not(method: str, tmp_path: Path) -> None:
    recipe = {"name": "x", "train": {"method": method, "args": {"packing": False}}}
    assert VALIDATOR.is_valid(recipe)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    assert load_recipe(str(tmp_path / "r.yaml")).train.args == {"packing": False}


@pytest.mark.parametrize(("method", "wrong"), WRONG, ids=lambda value: str(value))
def test_the_editor_and_the_loader_refuse_the_same(method: str, wrong: dict, tmp_path: Path) -> None:
    recipe = merge({"name": "x", "train": {"method": method}}, wrong)
    assert not VALIDATOR.is_valid(recipe)
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    with pytest.raises(UserError):
        load_recipe(str(tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    ("method", "right"),
    [
        ("sft", {"extends": None, "profiles": None}),
        ("sft", {"profiles": {"tiny": None}, "environments": {"sat": None}}),
        ("sft", {"model": {"config": {"head_dim": None, "intermediate_size": [64, 128]}}}),
        ("sft", {"train": {"args": {"learning_rate": 1, "report_to": "none", "eval_strategy": "no"}}}),
        ("sft", {"train": {"lora": {"target_modules": "all-linear"}}}),
        ("ppo", {"train": {"args": {"ppo_epochs": 2, "clip_range": 0.1}}}),
        ("grpo", {"train": {"args": {"num_iterations": 2, "num_generations": 4}}}),
    ],
)
def test_the_editor_and_the_loader_accept_the_same(method: str, right: dict, tmp_path: Path) -> None:
    recipe = merge({"name": "x", "train": {"method": method}}, right)
    assert list(VALIDATOR.iter_errors(recipe)) == []
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    load_recipe(str(tmp_path / "r.yaml"))


@pytest.mark.parametrize(
    ("recipe", "where"),
    [
        ({"data": {"mixx": 1}}, "$.data"),
        ({"train": {"args": {"learning_rat": 1}}}, "$.train.args"),
        ({"train": {"args": {"lr_scheduler_type": "cosinee"}}}, "$.train.args.lr_scheduler_type"),
        ({"train": {"method": "sft", "args": {"num_generations": 4}}}, "$.train.args"),
        ({"train": {"method": "ppo", "args": {"num_iterations": 2}}}, "$.train.args"),
        ({"train": {"args": {"output_dir": "x"}}}, "$.train.args"),
        ({"train": {"lora": {"r": 0}}}, "$.train.lora"),
        ({"profiles": {"tiny": {"data": {"max_length": "long"}}}}, "$.profiles.tiny.data.max_length"),
        ({"data": {"mix": [{"weight": 1.0}]}}, "$.data.mix[0]"),
        ({"extends": 3}, "$.extends"),
    ],
)
def test_mistakes_are_found(recipe: dict, where: str) -> None:
    assert [error.json_path for error in VALIDATOR.iter_errors(recipe)] == [where]


def test_a_method_has_its_own_arguments() -> None:
    assert VALIDATOR.is_valid({"train": {"method": "grpo", "args": {"num_generations": 4}}})
    assert VALIDATOR.is_valid({"train": {"args": {"num_generations": 4}}})


def test_every_shipped_yaml_is_well_formed() -> None:
    files = [path for root in config_roots() for path in Path(root).rglob("*.yaml")]
    assert files and all(parse_yaml(path.read_text(encoding="utf-8"), str(path)) for path in files)
