"""Tool registries: which tools a model is offered, and whether a call fits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml

from agentforge.data.tool_calls import nested_call
from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.yaml_files import Loader, find_config

ENTRY_KEYS = {"name", "description", "parameters"}


@dataclass(frozen=True)
class ToolSet:
    """Tools by name.

    Attributes:
        name: the registry's.
        schemas: the tools as OpenAI's API and the chat template take them.
    """

    name: str
    schemas: list[dict[str, Any]]

    @cached_property
    def names(self) -> list[str]:
        """The tools' names, in their order."""
        return [schema["function"]["name"] for schema in self.schemas]

    @cached_property
    def _parameters(self) -> dict[str, dict[str, Any]]:
        return {schema["function"]["name"]: schema["function"]["parameters"] for schema in self.schemas}

    def check(self, call: Mapping[str, Any]) -> str | None:
        """Return what is wrong with a call, flat or nested, or None."""
        import jsonschema

        try:
            function = nested_call(dict(call))["function"]
        except ValueError as error:
            return str(error)
        name, arguments = function["name"], function["arguments"]
        if name not in self._parameters:
            return f"there is no tool '{name}'{did_you_mean(name, self.names)}"
        validator = jsonschema.Draft202012Validator(self._parameters[name])
        problem = jsonschema.exceptions.best_match(validator.iter_errors(arguments))
        if problem is None:
            return None
        place = ".".join(str(step) for step in problem.absolute_path)
        return f"{name}: {f'{place}: ' if place else ''}{problem.message}"


def load_tools(name: str) -> ToolSet:
    """Load ``configs/tools/<name>.yaml``.

    Raises:
        UserError: there is no such registry, or an entry of it is no tool.
    """
    path = find_config("tools", name)
    entries = yaml.load(path.read_text(encoding="utf-8"), Loader)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: a tool registry is a list of tools, each with {', '.join(sorted(ENTRY_KEYS))}")
    for position, entry in enumerate(entries):
        _check_entry(entry, f"{path}, tool {position + 1}")
    names = [entry["name"] for entry in entries]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{path}: the tool '{repeated.pop()}' is defined twice; keep one")
    return ToolSet(name, [{"type": "function", "function": entry} for entry in entries])


def _check_entry(entry: Any, where: str) -> None:
    import jsonschema

    keys = set(entry) if isinstance(entry, dict) else set()
    if keys != ENTRY_KEYS:
        raise UserError(f"{where}: a tool needs exactly the keys {', '.join(sorted(ENTRY_KEYS))}")
    if not isinstance(entry["name"], str) or not isinstance(entry["description"], str):
        raise UserError(f"{where}: name and description must be text")
    try:
        jsonschema.Draft202012Validator.check_schema(entry["parameters"])
    except jsonschema.SchemaError as error:
        raise UserError(f"{where} ('{entry['name']}'): the parameters are not a JSON schema: {error.message}") from None
    if entry["parameters"].get("type") != "object":
        raise UserError(f"{where} ('{entry['name']}'): the parameters must be of type object")
