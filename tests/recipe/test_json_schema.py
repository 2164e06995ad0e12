"""The schema for editors accepts every shipped recipe and refuses what loading refuses."""

from pathlib import Path

import jsonschema
import pytest

from agentforge.recipe.json_schema import recipe_json_schema
from agentforge.recipe.loading import find_recipe, recipe_names, resolved_yaml
from agentforge.recipe.schema import Recipe
from agentforge.recipe.yaml_files import config_roots, parse_yaml, read_yaml

SCHEMA = recipe_json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_pass(name: str) -> None:
    assert list(VALIDATOR.iter_errors(read_yaml(find_recipe(name)))) == []


def test_a_resolved_recipe_passes() -> None:
    resolved = parse_yaml(resolved_yaml(Recipe(name="x")), "x")
    assert list(VALIDATOR.iter_errors(resolved)) == []


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
