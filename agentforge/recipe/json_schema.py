"""The JSON schema of a recipe file, for editors (yaml-language-server) and for `agentforge show --json-schema`.

A file is not yet a recipe: `extends` and `profiles` may bring what it lacks, so nothing is required in it but what makes
an item of a list.
"""

from __future__ import annotations

import copy
from typing import Any

from agentforge.recipe.arguments import CONFIG_OF_METHOD, LORA_OWNED, OWNED
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of


def recipe_json_schema() -> dict[str, Any]:
    """Return a schema (draft 2020-12) in which unknown keys and values outside an enumeration are errors."""
    schema = copy.deepcopy(Recipe.model_json_schema())
    definitions = schema.pop("$defs")
    list_items = {"Source", "Stage"}
    for name, definition in definitions.items():
        if name not in list_items:
            definition.pop("required", None)
    definitions |= {config: _fields_schema(config) for config in [*dict.fromkeys(CONFIG_OF_METHOD.values()), "LoraConfig"]}
    train = definitions["Train"]
    train["properties"]["args"] = {"type": "object", "description": train["properties"]["args"]["description"]}
    train["properties"]["lora"] = {"anyOf": [{"$ref": "#/$defs/LoraConfig"}, {"type": "null"}]}
    train["allOf"] = _arguments_by_method()
    definitions["Overlay"] = {"type": "object", "additionalProperties": False, "properties": schema["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "agentforge recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "extends": {"type": "string", "description": "a recipe file beside this one, on which this one is laid"},
            "profiles": {
                "type": "object",
                "description": "named overlays; --profile NAME lays one on the recipe",
                "additionalProperties": {"anyOf": [{"$ref": "#/$defs/Overlay"}, {"type": "null"}]},
            },
            **schema["properties"],
        },
        "$defs": definitions,
    }


def _fields_schema(config: str) -> dict[str, Any]:
    owned = LORA_OWNED if config == "LoraConfig" else OWNED
    fields = {name: fragment for name, fragment in fields_of(config).items() if name not in owned}
    return {"type": "object", "additionalProperties": False, "properties": fields}


def _arguments_by_method() -> list[dict[str, Any]]:
    """Return the condition that gives `args` its fields; without `method` in the file, any class's fields are right."""
    named = [
        {
            "if": {"properties": {"method": {"const": method}}, "required": ["method"]},
            "then": {"properties": {"args": {"$ref": f"#/$defs/{config}"}}},
        }
        for method, config in CONFIG_OF_METHOD.items()
    ]
    configs = [{"$ref": f"#/$defs/{config}"} for config in dict.fromkeys(CONFIG_OF_METHOD.values())]
    unnamed = {"if": {"not": {"required": ["method"]}}, "then": {"properties": {"args": {"anyOf": configs}}}}
    return [*named, unnamed]
