"""The JSON schema of a recipe file, for editors (yaml-language-server) and for `agentforge show --json-schema`.

A file is not yet a recipe: `extends` and `profiles` may bring what it lacks, so nothing is required in it except
the keys of list items, and without a method of its own it may have the arguments of any.

A test holds the schema against the loader. What a schema cannot say, only the loader refuses: a whole number written
as 1.0, .inf and .nan, a NUL in a text, an invalid regular expression, and names of files (`hardware`, `extends`).
"""

from __future__ import annotations

import copy
from typing import Any

from agentforge.recipe.arguments import allowed_fields, owned_fields
from agentforge.recipe.methods import METHODS, config_classes
from agentforge.recipe.model_config import SIZES, SWITCHES
from agentforge.recipe.schema import Recipe

CONFIGS = config_classes()


def recipe_json_schema() -> dict[str, Any]:
    """Return a schema (draft 2020-12) in which unknown keys and values outside an enumeration are errors."""
    schema = copy.deepcopy(Recipe.model_json_schema())
    definitions = schema.pop("$defs")
    list_items = {"Source", "Stage"}
    # A file may leave anything out, because others complete it; an item of a list is never merged with another.
    for name, definition in definitions.items():
        if name not in list_items:
            definition.pop("required", None)
    definitions |= {config: _fields_schema(config) for config in [*CONFIGS, "LoraConfig"]}
    definitions["AnyConfig"] = _any_config([definitions[config] for config in CONFIGS])
    train = definitions["Train"]
    # Which fields `args` may hold depends on `method` beside it; the conditions of `allOf` say so.
    train["properties"]["args"] = {"type": "object", "description": train["properties"]["args"]["description"]}
    train["properties"]["lora"] = {"anyOf": [{"$ref": "#/$defs/LoraConfig"}, {"type": "null"}]}
    train["allOf"] = _arguments_by_method()
    definitions["Model"]["properties"]["config"] |= {"properties": _config_fields()}
    definitions["Overlay"] = {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": schema["properties"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "agentforge recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "extends": {
                "type": ["string", "null"],
                "description": "a recipe file beside this one, on which this one is laid",
            },
            "profiles": {
                "type": ["object", "null"],
                "description": "named overlays; --profile NAME lays one on the recipe",
                "additionalProperties": {"$ref": "#/$defs/Overlay"},
            },
            **schema["properties"],
        },
        "$defs": definitions,
    }


def _config_fields() -> dict[str, Any]:
    """Return what `model_config.config_problems` says of a config."""
    size = {"type": "integer", "minimum": 1}
    sizes = {"anyOf": [size, {"type": "array", "items": size, "minItems": 1}, {"type": "null"}]}
    return {
        "model_type": {"type": ["string", "null"]},
        **{name: sizes for name in SIZES},
        **{name: {"type": ["boolean", "null"]} for name in SWITCHES},
    }


def _fields_schema(config: str) -> dict[str, Any]:
    owned = owned_fields(config)
    fields = {name: fragment for name, fragment in allowed_fields(config).items() if name not in owned}
    return {"type": "object", "additionalProperties": False, "properties": fields}


def _arguments_by_method() -> list[dict[str, Any]]:
    """Return the condition that gives `args` its fields; without `method` in the file, any class's fields are right."""
    named = [
        {
            "if": {"properties": {"method": {"const": method}}, "required": ["method"]},
            "then": {"properties": {"args": {"$ref": f"#/$defs/{spec.config}"}}},
        }
        for method, spec in METHODS.items()
    ]
    unnamed = {
        "if": {"not": {"required": ["method"]}},
        "then": {"properties": {"args": {"$ref": "#/$defs/AnyConfig"}}},
    }
    return [*named, unnamed]


def _any_config(configs: list[dict[str, Any]]) -> dict[str, Any]:
    fields: dict[str, list[dict[str, Any]]] = {}
    for config in configs:
        for name, fragment in config["properties"].items():
            # A field that two classes declare differently may satisfy either.
            if fragment not in fields.setdefault(name, []):
                fields[name].append(fragment)
    merged = {name: found[0] if len(found) == 1 else {"anyOf": found} for name, found in fields.items()}
    return {"type": "object", "additionalProperties": False, "properties": merged}
