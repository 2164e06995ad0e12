"""Read YAML strictly: no repeated keys, no surprises of YAML 1.1, errors with file and line; find shipped files."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from agentforge.errors import UserError, did_you_mean, first_line

PACKAGE_CONFIGS = Path(__file__).resolve().parents[1] / "configs"
REPOSITORY_CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MAX_DEPTH = 50


class Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """A safe loader for YAML 1.2's scalars.

    In YAML 1.1, which PyYAML implements, ``eval_strategy: no`` is False, ``2e-5`` is a string, ``12:30`` is 750 and
    ``2026-05-01`` is a date object.
    """

    # Empty rather than inherited: the parent's resolvers are YAML 1.1's, and new ones are only added to them.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own attribute
    source = "YAML"

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            # `<<: *anchor` is no key of the mapping; what it brings may be overridden below it.
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            where = f"{self.source}, line {key_node.start_mark.line + 1}"
            if key_node.tag != "tag:yaml.org,2002:str":
                what = f"'{key_node.value}'" if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise UserError(f"{where}: the key {what} must be text; put it in quotes")
            if key_node.value in seen:
                raise UserError(f"{where}: the key '{key_node.value}' occurs twice; keep one")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^(?:[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*\.?(?:[eE][-+]?[0-9]+)|[0-9][0-9_]*\.|"
        r"\.inf|\.Inf|\.INF)$|^(?:\.nan|\.NaN|\.NAN)$",
        list("-+0123456789."),
    ),
    ("merge", r"^<<$", ["<"]),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _construct_int(loader: Any, node: yaml.ScalarNode) -> int:
    text = str(node.value).replace("_", "")
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)  # PyYAML reads 010 as octal


Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        UserError: with file and line: broken YAML, a repeated key, a key that is not text, or no mapping at all.
    """
    try:
        # Some editors begin a file with a byte order mark, which would become part of the first key.
        loaded = parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: this is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if not isinstance(loaded, dict):
        what = "nothing" if loaded is None else f"a {type(loaded).__name__}"
        raise UserError(f"{path}: the file must hold 'key: value' pairs, but it holds {what}")
    return loaded


def parse_yaml(text: str, name: str) -> Any:
    """Parse one YAML document; ``name`` is what errors call it."""
    try:
        loaded = _load(text, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        lines = text.splitlines() or [""]
        number = (
            min(mark.line, len(lines) - 1) if mark else None
        )  # libyaml finds an open bracket one line after the last
        at, line = ("", "") if number is None else (f", line {number + 1}", lines[number])
        tab = "; a tab stands there: indent with spaces" if "\t" in line else ""
        raise UserError(f"{name}{at}: this is not YAML: {error.problem or error.context}{tab}") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        # PyYAML's constructors of explicit tags (`!!bool x`) let through whatever Python raises
        raise UserError(f"{name}: this is not YAML: {first_line(error)}") from None
    if _deeper_than(loaded, MAX_DEPTH):
        raise UserError(f"{name}: lists and mappings lie in each other more than {MAX_DEPTH} deep, or in themselves")
    return loaded


def _load(text: str, name: str) -> Any:
    loader = _named(text, name)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _deeper_than(value: Any, levels: int) -> bool:
    """Tell whether containers are nested more than ``levels`` deep; an alias of its own anchor is for ever."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper_than(item, levels - 1) for item in inner)


def line_of(path: Path, keys: tuple[str, ...]) -> int | None:
    """Return the line (from 1) on which the nested key stands in the file, or None. List items are named by index."""
    loader = _named(path.read_text(encoding="utf-8-sig"), str(path))
    try:
        node, line = loader.get_single_node(), None
        for key in keys:
            if isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
                node = node.value[int(key)]
                line = node.start_mark.line + 1
                continue
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = next(((k, v) for k, v in pairs if k.value == key), None)
            if found is None:
                return None
            line, node = found[0].start_mark.line + 1, found[1]
        return line
    finally:
        loader.dispose()


def _named(text: str, name: str) -> Any:
    loader = Loader(text)
    loader.source = name
    return loader


def config_roots() -> list[Path]:
    """Directories that hold shipped configuration, nearest first: ./configs, then the package's."""
    return list(_config_roots(Path.cwd()))


@cache
def _config_roots(here: Path) -> tuple[Path, ...]:
    # In a checkout ./configs is the repository's own. It is listed once, under its short path.
    candidates = {(here / "configs").resolve(): Path("configs"), PACKAGE_CONFIGS: PACKAGE_CONFIGS}
    candidates.setdefault(REPOSITORY_CONFIGS, REPOSITORY_CONFIGS)
    return tuple(shown for place, shown in candidates.items() if place.is_dir())


def find_config(kind: str, name: str, *, without: tuple[str, ...] = ()) -> Path:
    """Return the file of ``configs/<kind>/<name>.yaml``.

    Args:
        without: names of files in the folder that hold something else.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    for root in config_roots():
        path = root / kind / f"{name}.yaml"
        if name not in without and os.path.isfile(
            path
        ):  # which is just False of a name that is too long for a file system
            return path
    known = sorted({p.stem for root in config_roots() for p in (root / kind).glob("*.yaml")} - {*without})
    hint = did_you_mean(name, known) or f"; known: {', '.join(known) or 'none'}"
    raise UserError(f"there is no {kind} '{name}'{hint}")
