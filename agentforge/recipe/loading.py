"""Find, extend, overlay, override and validate a recipe. Precedence: default < YAML (`extends`, profile) < command line."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.hardware import choose_profile
from agentforge.recipe.schema import Recipe

PACKAGE_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
REPOSITORY_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NOT_IN_SCHEMA = {"extends", "profiles"}


class Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.2's floats (``2e-5`` is a number, not a string) and no silently repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                mark = key_node.start_mark
                raise UserError(f"{mark.name}, line {mark.line + 1}: the key '{key}' stands twice; keep one of them")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _float_resolver() -> None:
    import re

    pattern = r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$"
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(pattern), list("-+0123456789."))


_float_resolver()


def config_roots() -> list[Path]:
    """Directories that hold shipped configuration, nearest first: ./configs, then the package's."""
    candidates = [Path("configs"), PACKAGE_CONFIGS, REPOSITORY_CONFIGS]
    roots: list[Path] = []
    for root in candidates:
        if root.is_dir() and root.resolve() not in [seen.resolve() for seen in roots]:
            roots.append(root)
    return roots


def find_config(kind: str, name: str) -> Path:
    """Return the file of ``configs/<kind>/<name>.yaml``.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    for root in config_roots():
        if (path := root / kind / f"{name}.yaml").is_file():
            return path
    known = sorted({p.stem for root in config_roots() for p in (root / kind).glob("*.yaml")})
    raise UserError(f"there is no {kind} '{name}'{did_you_mean(name, known)}; known: {', '.join(known) or 'none'}")


def recipe_names() -> list[str]:
    """Every shipped recipe as ``system/name``, and ``system`` for a system's own recipe."""
    not_recipes = {"datasets", "hardware", "models", "accelerate", "tools"}
    names: set[str] = set()
    for root in config_roots():
        for path in root.glob("*/*.yaml"):
            if (system := path.parent.name) not in not_recipes:
                names.add(system if path.stem == system else f"{system}/{path.stem}")
    return sorted(names)


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given as a path, ``system`` or ``system/name``."""
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"there is no recipe file {name}")
    system, _, stem = name.partition("/")
    for root in config_roots():
        if (path := root / system / f"{stem or system}.yaml").is_file():
            return path
    known = recipe_names()
    raise UserError(f"there is no recipe '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: with file and line, for broken YAML or a document that is no mapping.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=Loader)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: this is not YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: this is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: the file must hold 'key: value' pairs, it holds a {type(loaded).__name__}")
    return loaded


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it: mappings are merged, everything else is replaced."""
    merged = dict(copy.deepcopy(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def read_extended(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a recipe file with everything it extends."""
    path = path.resolve()
    if path in seen:
        raise UserError(f"{path.name}: 'extends' goes in a circle: {' -> '.join(p.name for p in (*seen, path))}")
    raw = read_yaml(path)
    if (parent := raw.pop("extends", None)) is None:
        return raw
    parent_path = path.parent / str(parent)
    if not parent_path.is_file():
        raise UserError(f"{path}: extends '{parent}', which is not a file beside it")
    return merge(read_extended(parent_path, (*seen, path)), raw)


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=value`` (the value read as YAML) into its key and value."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"'{text}' is not an override; write key=value, e.g. train.args.learning_rate=1e-4")
    try:
        return key.replace("-", "_") if key.startswith("--") else key, yaml.load(value, Loader=Loader)  # noqa: S506
    except yaml.YAMLError:
        return key, value


def apply_override(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` in ``raw``; list items are named by their index (``data.mix.0.weight=1``)."""
    *parents, last = key.split(".")
    target: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(target, list):
            target = _item(target, part, key)
        else:
            if not isinstance(target.get(part), dict | list):
                if target.get(part) is not None:
                    raise UserError(f"override {key}: '{'.'.join(parents[: depth + 1])}' is a value, it has no keys")
                target[part] = {}
            target = target[part]
    if isinstance(target, list):
        _item(target, last, key)
        target[int(last)] = value
    else:
        target[last] = value


def _item(items: list[Any], index: str, key: str) -> Any:
    if not index.isdigit() or int(index) >= len(items):
        raise UserError(f"override {key}: '{index}' must be an index from 0 to {len(items) - 1}")
    return items[int(index)]


def select_profile(raw: dict[str, Any], profile: str | None, where: str) -> tuple[dict[str, Any], str | None]:
    """Lay the named profile over ``raw``. ``auto`` picks by the hardware found."""
    profiles = raw.pop("profiles", None) or {}
    if profile is None:
        return raw, None
    if profile == "auto":
        profile = choose_profile({name: (body or {}).get("hardware") for name, body in profiles.items()})
    if profile not in profiles:
        known = sorted(profiles)
        raise UserError(
            f"{where} has no profile '{profile}'{did_you_mean(profile, known)}; it has: {', '.join(known) or 'none'}"
        )
    return merge(raw, profiles[profile] or {}), profile


def load_raw(name: str, overrides: Sequence[str] = (), profile: str | None = None) -> tuple[dict[str, Any], str | None]:
    """Return the unvalidated recipe and the profile that was used."""
    path = find_recipe(name)
    raw, used = select_profile(read_extended(path), profile, name)
    for override in overrides:
        apply_override(raw, *parse_override(override))
    return raw, used


def load_recipe(name: str, overrides: Sequence[str] = (), profile: str | None = None) -> Recipe:
    """Load a recipe by path or ``system/name``.

    Args:
        name: a path to a YAML file, ``system`` or ``system/name``.
        overrides: dotted ``key=value`` strings, applied last.
        profile: name of an overlay in the file; ``auto`` picks one by the hardware found.

    Raises:
        UserError: anything wrong, with the key's path and, for a misspelling, the nearest right one.
    """
    raw, _ = load_raw(name, overrides, profile)
    return validate(raw, name)


def validate(raw: dict[str, Any], where: str) -> Recipe:
    """Return the typed recipe.

    Raises:
        UserError: the first thing that is wrong, and how many more there are.
    """
    from agentforge.recipe.arguments import check_arguments

    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(dict(detail), where) for detail in error.errors()]
        raise UserError("\n".join(problems)) from None
    check_arguments(recipe, where)
    return recipe


def _explain(detail: dict[str, Any], where: str) -> str:
    path = [part for part in detail["loc"] if not _is_union_tag(part)]
    key = ".".join(str(part) for part in path)
    if detail["type"] == "extra_forbidden":
        known = keys_at(tuple(str(part) for part in path[:-1]))
        hint = did_you_mean(str(path[-1]), known)
        if not hint and (homes := [home for home in sorted(all_keys()) if home.split(".")[-1] == path[-1]]):
            hint = f"; did you mean '{homes[0]}'?"
        return f"{where}: there is no key '{key}'{hint or '; known here: ' + ', '.join(known)}"
    if detail["type"] == "literal_error":
        choices = [choice.strip("' ") for choice in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        hint = did_you_mean(str(detail["input"]), choices)
        return f"{where}: {key} is '{detail['input']}', it must be one of {', '.join(choices)}{hint}"
    if detail["type"] == "missing":
        return f"{where}: the key '{key}' is missing"
    return f"{where}: {key}: {detail['msg'][0].lower()}{detail['msg'][1:]}, it is {detail['input']!r}"


def _is_union_tag(part: Any) -> bool:
    # pydantic adds the branch of a union (`str`, `TokenizerTraining`) to the location of an error
    return isinstance(part, str) and (part == "str" or part[:1].isupper() or "[" in part)


@cache
def all_keys() -> frozenset[str]:
    """Every dotted key of the schema."""
    found: set[str] = set()

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            found.add(prefix + name)
            if (inner := _section_of(field.annotation)) is not None:
                walk(inner, f"{prefix}{name}.")

    walk(Recipe, "")
    return frozenset(found)


def keys_at(path: tuple[str, ...]) -> list[str]:
    """The keys allowed in the section at ``path`` (list indices are skipped)."""
    model: type[BaseModel] = Recipe
    for part in path:
        if part.isdigit():
            continue
        inner = _section_of(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    extra = NOT_IN_SCHEMA if model is Recipe else set()
    return sorted(set(model.model_fields) | extra)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list):
        for inner in typing.get_args(annotation):
            if (found := _section_of(inner)) is not None:
                return found
    return None
