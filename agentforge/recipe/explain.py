"""Turn what pydantic says about a recipe into sentences that name the key and the nearest right one."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from agentforge.errors import did_you_mean
from agentforge.recipe.arguments import ALIASES, ELSEWHERE, is_number, show_value
from agentforge.recipe.methods import config_classes
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of

NOT_IN_SCHEMA = ("extends", "profiles")
MUST_BE = {
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "float_type": "it must be a number",
    "string_type": "it must be text (in quotes if it looks like a number)",
    "bool_type": "it must be true or false",
    "list_type": "it must be a list",
    "dict_type": "it must be a mapping",
    "model_type": "it must be a mapping",
    "union": "it must be text or a mapping",
}
PATTERNS = {
    "version": "it must be three numbers such as 1.0.0",
    "name": "it may hold letters, digits, '.', '_' and '-', and must begin with a letter or digit",
}


def explain(error: ValidationError) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the key's path and a sentence for each thing that is wrong."""
    # pydantic reports a union once per branch: `tokenizer: {vocab_size: x}` fails both as text and as
    # TokenizerTraining.
    for detail in _relevant([{**detail} for detail in error.errors()]):
        path = tuple(str(part) for part in detail["loc"] if not _is_union_tag(part))
        yield path, _sentence(detail, path)


def _relevant(details: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the details without those of a union's branch that cannot have been meant: text for a mapping."""
    for detail in details:
        union = _union_of(detail)
        # The branch that was meant fails further inside. Where every branch fails by its type (a list, a number), one
        # sentence names them all.
        group = [other for other in details if _union_of(other) == union] if union else [detail]
        meant = [other for other in group if other["type"] not in ("string_type", "model_type")]
        if union is None or detail in meant:
            yield detail
        elif not meant and detail is group[0]:
            yield {**detail, "type": "union"}


def _union_of(detail: dict[str, Any]) -> tuple[Any, ...] | None:
    tag = next((number for number, part in enumerate(detail["loc"]) if _is_union_tag(part)), None)
    return None if tag is None else tuple(detail["loc"][:tag])


def _is_union_tag(part: Any) -> bool:
    # pydantic adds the branch of a union (`str`, `TokenizerTraining`) and `[key]` to the location of an error
    return isinstance(part, str) and (part in ("str", "[key]") or part[:1].isupper())


def _sentence(detail: dict[str, Any], path: tuple[str, ...]) -> str:
    key, kind = ".".join(path), detail["type"]
    if kind == "extra_forbidden":
        return f"there is no key '{key}'{suggest_key(path)}"
    if kind == "missing":
        return f"the key '{key}' is missing"
    said = f"{key} is {show_value(detail['input'])}; "
    if kind == "literal_error":
        choices = [choice.strip("' ") for choice in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{said}it must be one of {', '.join(choices)}{did_you_mean(str(detail['input']), choices)}"
    if kind == "string_pattern_mismatch":
        return said + PATTERNS[path[-1]]
    if kind in ("int_type", "float_type") and isinstance(detail["input"], str) and is_number(detail["input"]):
        return said + "it must be a number, not text: write it without quotes"
    return said + MUST_BE.get(kind, detail["msg"].replace("Input should be", "it must be"))


def suggest_key(path: tuple[str, ...]) -> str:
    """Return ``"; did you mean 'data.mix'?"`` for an unknown key, else what is known there."""
    *section, name = path
    prefix = ".".join([*section, ""])
    plain = name.lower().replace("-", "_")
    siblings = keys_at(tuple(section))
    # Most likely first: the same word with other dashes or capitals, a known word from elsewhere, a similar word here,
    # a similar word anywhere.
    if plain in siblings:
        return f"; did you mean '{prefix}{plain}'?"
    if elsewhere := _elsewhere(plain):
        return f"; did you mean '{elsewhere}'?"
    if hint := did_you_mean(name, siblings):
        near = hint.split("'")[1]
        return f"; did you mean '{prefix}{near}'?"
    # Reversed, so that of two keys with the same last name the alphabetically first one stays.
    homes = {key.rsplit(".", 1)[-1]: key for key in sorted(all_keys(), reverse=True)}
    if hint := did_you_mean(name, list(homes)):
        near = hint.split("'")[1]
        return f"; did you mean '{homes[near]}'?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _elsewhere(name: str) -> str | None:
    """Return the dotted key of a field of another section, of the config classes, or of another tool's language."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    field = ALIASES.get(name, name)
    if any(field in fields_of(config) for config in config_classes()):
        return f"train.args.{field}"
    if name in fields_of("LoraConfig"):
        return f"train.lora.{name}"
    return next((key for key in sorted(all_keys()) if key.rsplit(".", 1)[-1] == name), None)


@cache
def all_keys() -> frozenset[str]:
    """Every dotted key of the schema."""
    found: set[str] = set()

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            found.add(prefix + name)
            if (inner := section_of(field.annotation)) is not None:
                walk(inner, f"{prefix}{name}.")

    walk(Recipe, "")
    return frozenset(found)


def keys_at(path: tuple[str, ...]) -> list[str]:
    """The keys allowed in the section at ``path`` (list indices are skipped)."""
    model: type[BaseModel] = Recipe
    for part in path:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        inner = section_of(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return sorted([*model.model_fields, *(NOT_IN_SCHEMA if model is Recipe else ())])


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field's annotation holds, looking through unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list):
        return next((found for inner in typing.get_args(annotation) if (found := section_of(inner))), None)
    return None
