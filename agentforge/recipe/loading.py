"""Find, extend, overlay, override and validate a recipe.

Precedence: default < YAML (`extends`, then the file, then the profile) < command line.
"""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agentforge.errors import UserError, did_you_mean, seen_from
from agentforge.recipe.arguments import argument_problems
from agentforge.recipe.combinations import combination_problems
from agentforge.recipe.explain import explain
from agentforge.recipe.hardware import choose_profile, load_hardware
from agentforge.recipe.model_config import config_problems
from agentforge.recipe.overrides import apply_override, parse_override
from agentforge.recipe.schema import Recipe, Stage
from agentforge.recipe.yaml_files import config_roots, line_of, read_yaml

# NUL and halves of UTF-16 pairs
UNWRITABLE = re.compile("[\0\ud800-\udfff]")
# Folders of configs/ that hold something else
NOT_RECIPES = {"benchmarks", "claims", "datasets", "hardware", "models", "tools"}


@dataclass(frozen=True)
class Origin:
    """Where the keys of an unvalidated recipe come from, for messages.

    Attributes:
        name: what the user called the recipe.
        files: the recipe's file and those it extends, the nearest first.
        profile: the overlay in use.
        overrides: the dotted keys given on the command line.
    """

    name: str
    files: tuple[Path, ...] = ()
    profile: str | None = None
    overrides: tuple[str, ...] = ()

    def of(self, path: tuple[str, ...]) -> str:
        """Return ``configs/aj/sft.yaml, line 12`` for a key, or the recipe's name for a key that is in no file."""
        key = ".".join(path)
        # The error may be about a key inside the one that was overridden, or about the section around it.
        for override in self.overrides:
            if key == override or key.startswith(f"{override}.") or override.startswith(f"{key}."):
                return f"command line, {override}"
        # The last layer that sets the key is the one to mend: the profile's line before the file's, the file's before
        # its parent's.
        places = [("profiles", self.profile, *path)] if self.profile else []
        for keys in [*places, path]:
            for file in self.files:
                if line := line_of(file, keys):
                    return f"{file}, line {line}"
        return f"{self.name}, profile '{self.profile}'" if self.profile else self.name


def recipe_names() -> list[str]:
    """Every shipped recipe as ``system/name``, and ``system`` for a system's own recipe."""
    names: set[str] = set()
    for root in config_roots():
        for path in root.glob("*/*.yaml"):
            if (system := path.parent.name) not in NOT_RECIPES:
                names.add(system if path.stem == system else f"{system}/{path.stem}")
    return sorted(names)


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given as ``system``, ``system/name`` or a path, with or without its ``.yaml``.

    Raises:
        UserError: there is none; the nearest name is given.
    """
    if name.endswith((".yaml", ".yml")):
        if os.path.isfile(name):
            return Path(name)
        raise UserError(f"there is no recipe file {name}{seen_from(name)}")
    system, _, stem = name.partition("/")
    for root in config_roots():
        path = root / system / f"{stem or system}.yaml"
        if system not in NOT_RECIPES and os.path.isfile(path):
            return path
    if os.path.isfile(here := f"{name}.yaml"):  # as `agentforge init` names it
        return Path(here)
    known = recipe_names()
    raise UserError(f"there is no recipe '{name}'{did_you_mean(name, known) or '; known: ' + ', '.join(known)}")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``over`` laid on it: mappings are merged, everything else is replaced."""
    # Copies: overrides are written into the result, and all profiles share the same file.
    merged = dict(copy.deepcopy(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def files_of(path: Path, seen: tuple[Path, ...] = ()) -> tuple[Path, ...]:
    """Return a recipe's file and those it extends, the nearest first.

    Raises:
        UserError: `extends` names no file, or goes in a circle.
    """
    if path.resolve() in (file.resolve() for file in seen):
        raise UserError(f"{path}: 'extends' goes in a circle: {' -> '.join(p.name for p in (*seen, path))}")
    # Relative to the file that says it, not to where the command is run.
    parent = read_yaml(path).get("extends")
    if parent is None:
        return (path,)
    if not isinstance(parent, str):
        raise UserError(f"{path}: extends must name one file beside it, not {parent!r}")
    parent_path = path.parent / parent
    if not os.path.isfile(parent_path):
        near = did_you_mean(parent, [file.name for file in path.parent.glob("*.yaml")])
        raise UserError(f"{path}: extends '{parent}', which is not a file beside it{near}")
    return (path, *files_of(parent_path, (*seen, path)))


def read_extended(path: Path) -> dict[str, Any]:
    """Read a recipe file with everything it extends."""
    raw: dict[str, Any] = {}
    for file in reversed(files_of(path)):
        raw = merge(raw, read_yaml(file))
    raw.pop("extends", None)
    return raw


def pop_profiles(raw: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Take the overlays out of ``raw``."""
    profiles = raw.pop("profiles", None)
    profiles = {} if profiles is None else profiles
    if not isinstance(profiles, dict):
        raise UserError(f"{where}: profiles must be a mapping of names to overlays")
    for name, body in profiles.items():
        if body is not None and not isinstance(body, dict):
            raise UserError(f"{where}: profiles.{name} must be a mapping of keys, not {body!r}")
        if inner := next((key for key in ("extends", "profiles") if key in (body or {})), None):
            raise UserError(f"{where}: profiles.{name} must not have '{inner}'; it belongs at the top of the file")
    # `tiny:` with nothing under it is null in YAML.
    return {name: body or {} for name, body in profiles.items()}


def choose(profiles: dict[str, dict[str, Any]], wanted: str | None, where: str) -> str | None:
    """Return the profile to use. ``auto`` picks by the hardware found.

    Raises:
        UserError: there is no such profile, or none fits this machine.
    """
    if wanted is None or wanted in profiles:
        return wanted
    if wanted == "auto":
        return choose_profile({name: _hardware_name(body.get("hardware")) for name, body in profiles.items()})
    known = sorted(profiles)
    raise UserError(
        f"{where} has no profile '{wanted}'{did_you_mean(wanted, known)}; it has: {', '.join(known) or 'none'}"
    )


def _hardware_name(value: Any) -> str | None:
    """Return the name in `hardware` of a profile that nobody has validated yet."""
    named = value.get("name") if isinstance(value, dict) else value
    return named if isinstance(named, str) else None


def load_recipe(name: str, overrides: Sequence[str] = (), profile: str | None = None) -> Recipe:
    """Load a recipe by path or ``system/name``. Profiles that are not selected are validated too.

    Args:
        name: a path to a YAML file, ``system`` or ``system/name``.
        overrides: dotted ``key=value`` strings, applied last.
        profile: name of an overlay in the file; ``auto`` picks one by the hardware found.

    Raises:
        UserError: what is wrong, with file, line and key and, for a misspelling, the nearest right one.
    """
    # A recipe is built in layers, each over the one before: the schema's defaults, the file at the far end of
    # `extends`, the files on the way, the recipe's own file, one profile, the command line. Mappings are merged key by
    # key; anything else, lists included, is replaced as a whole: a profile that changes one line of `data.mix` repeats
    # the others. Profiles of one name are merged along `extends` too, since files are merged before their profiles are
    # taken out. Pydantic fills in the defaults at the end, wherever no layer has set a key.
    path = find_recipe(name)
    files = files_of(path)
    raw = read_extended(path)
    profiles = pop_profiles(raw, name)
    used = choose(profiles, profile, name)
    chosen = merge(raw, profiles[used]) if used else copy.deepcopy(raw)
    keys = []
    for key, value in map(parse_override, overrides):
        apply_override(chosen, key, value)
        keys.append(key)
    recipe = validate(chosen, Origin(name, files, used, tuple(keys)))
    # A typo in `8xh200` must show on the laptop, not on the rented machine. Overrides are meant for the profile in use.
    for other, body in profiles.items():
        if other != used:
            validate(merge(raw, body), Origin(name, files, other))
    return recipe


@dataclass(frozen=True)
class Options:
    """What stands behind a recipe's name on a command line.

    Attributes:
        profile: the overlay in use.
        overrides: dotted ``key=value`` strings.
    """

    profile: str | None = None
    overrides: tuple[str, ...] = ()

    def words(self, stage: Stage | None = None) -> list[str]:
        """Return them as words of a command: of the recipe itself, or of the recipe that one of its stages reads."""
        overrides: Sequence[str] = self.overrides
        if stage is not None and stage.recipe:
            overrides = stage_overrides(stage.recipe, overrides, self.profile)
        return [*(["--profile", self.profile] if self.profile else []), *overrides]


def load_stages(
    recipe: Recipe, overrides: Sequence[str] = (), profile: str | None = None
) -> list[tuple[Stage, Recipe]]:
    """Return a recipe's stages, each with the recipe that it reads, under the same overrides and profile.

    Raises:
        UserError: one of them is wrong, or an override is for none of them.
    """
    names = {stage.recipe for stage in recipe.stages if stage.recipe}
    others = {name: stage_overrides(name, overrides, profile) for name in names}
    unused = [text for text in overrides if all(text not in kept for kept in others.values())]
    if names and unused and all(stage.recipe for stage in recipe.stages if stage.verb == "train"):
        raise UserError(f"{recipe.name}: no stage trains an adapter, so {unused[0]} is for none of them")
    return [
        (stage, load_recipe(stage.recipe, others[stage.recipe], profile) if stage.recipe else recipe)
        for stage in recipe.stages
    ]


def stage_overrides(name: str, overrides: Sequence[str], profile: str | None = None) -> list[str]:
    """Return those overrides of a pipeline that are meant for a stage's recipe.

    All are, but for the keys of an adapter where none is trained: they would make an adapter of a base's pre-training.
    """
    of_adapters = [text for text in overrides if text.startswith("train.lora.")]
    if not of_adapters or load_recipe(name, (), profile).train.lora is not None:
        return list(overrides)
    return [text for text in overrides if text not in of_adapters]


def validate(raw: dict[str, Any], origin: Origin) -> Recipe:
    """Return the typed recipe.

    Raises:
        UserError: everything that is wrong, a line each.
    """
    if odd := list(odd_values(raw)):
        raise UserError("\n".join(f"{origin.of(path)}: {'.'.join(path)} {text}" for path, text in odd))
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise UserError("\n".join(f"{origin.of(path)}: {text}" for path, text in explain(error))) from None
    problems = argument_problems(recipe) or combination_problems(recipe)
    problems += [
        (("model", "config", name), f"model.config.{name} {text}")
        for name, text in config_problems(recipe.model.config, layered=True)
    ]
    if problems:
        raise UserError("\n".join(f"{origin.of(path)}: {text}" for path, text in problems))
    try:
        load_hardware(recipe.hardware)
    except UserError as error:
        raise UserError(f"{origin.of(('hardware',))}: {error}") from None
    return recipe


def odd_values(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the keys whose values no section can use, also of those that the schema leaves open (`model.config`)."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from odd_values(inner, (*path, str(key)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"is {value}; it must be a finite number"
    elif isinstance(value, str) and UNWRITABLE.search(value):
        yield path, "holds a character that no file name and no UTF-8 text can hold"


def resolved_yaml(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, defaults included; loading it gives the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
