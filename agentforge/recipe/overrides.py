"""Overrides on the command line: ``key=value``, ``--key value`` and ``--key=value`` with dotted keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.schema import Recipe
from agentforge.recipe.yaml_files import parse_yaml

EXAMPLE = "write key=value or --key value, e.g. train.args.learning_rate=1e-4"


def parse_overrides(argv: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """Return what the command line holds beside the verb's own options, as ``key=value`` strings.

    Args:
        argv: what is left; in the ``--`` forms dashes may stand for underscores (``--train.args.learning-rate 1e-4``).
        options: the verb's own options, to suggest them.

    Raises:
        UserError: an argument that is none of the three forms, a ``--key`` without a value, an unknown section.
    """
    found = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            if "=" not in word or word.startswith("="):
                raise UserError(f"'{word}' is not understood; {EXAMPLE}")
            found.append(word)
            continue
        key, equals, value = word.lstrip("-").partition("=")
        key = key.replace("-", "_")
        _check_section(key, word.partition("=")[0], options)
        if not equals:
            # One dash may begin a value (`-1`), two begin the next option.
            if not rest or rest[0].startswith("--"):
                raise UserError(f"'{word}' has no value; {EXAMPLE}")
            value = rest.pop(0)
        found.append(f"{key}={value}")
    return found


def _check_section(key: str, word: str, options: Sequence[str]) -> None:
    section = key.partition(".")[0]
    if word.startswith("--") and section in Recipe.model_fields:
        return
    known = [*options, *(f"--{name}" for name in Recipe.model_fields)]
    tail = key[len(section) :]
    hint = did_you_mean(f"--{section}", known)
    hint = f"{hint[:-2]}{tail}'?" if hint and tail else hint
    raise UserError(f"there is no option {word}{hint or '; ' + EXAMPLE}")


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``a.b=value`` at the first ``=``; the value is read as YAML, or taken as text if it is not YAML."""
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise UserError(f"'{text}' is not an override; {EXAMPLE}")
    try:
        return key, parse_yaml(value, f"override {key}")
    except UserError:
        # Text such as `a: b: c` is not YAML and is taken as it is, but a list or mapping that does not close is a
        # mistake.
        if value[:1] in ("[", "{"):
            raise
        return key, value


def apply_override(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` in ``raw``; list items are named by their index (``data.mix.0.weight=1``).

    Raises:
        UserError: the key goes through a plain value, an index is none, or the key steers loading itself.
    """
    *parents, last = key.split(".")
    if (first := key.partition(".")[0]) in ("extends", "profiles"):
        raise UserError(f"override {key}: '{first}' cannot be overridden; choose a profile with --profile")
    target: Any = raw
    for depth, part in enumerate(parents):
        if isinstance(target, list):
            target = target[_index(target, part, key)]
            continue
        # The file may not have the section, or have it as null: `surgery.operation=graft` creates it.
        if target.get(part) is None:
            target[part] = {}
        if not isinstance(target[part], dict | list):
            raise UserError(f"override {key}: '{'.'.join(parents[: depth + 1])}' is a value and has no keys")
        target = target[part]
    target[_index(target, last, key) if isinstance(target, list) else last] = value


def _index(items: list[Any], text: str, key: str) -> int:
    if not text.isdecimal() or int(text) >= len(items):
        raise UserError(f"override {key}: '{text}' must be an index from 0 to {len(items) - 1}")
    return int(text)
