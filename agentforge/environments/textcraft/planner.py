"""Plans for crafting goals: first everything that is taken from the world, then the crafts from the bottom up."""

from __future__ import annotations

from collections import Counter

from agentforge.environments.textcraft.recipes import Items, Recipe, RecipeBook, craft_command


def plan(book: RecipeBook, goal: str, inventory: Items) -> list[str]:
    """Return the actions that lead from an inventory to one more ``goal``.

    What the inventory holds is used first. Ingredients are taken in as few actions as possible; each craft is an action
    of its own, for a recipe asks for exact amounts.
    """
    planner = _Planner(book, Counter(inventory))
    planner.craft(goal)
    # Taking depends on nothing, so all of it can come before the first craft: one action for each raw item.
    return [*(f"get {count} {item}" for item, count in sorted(planner.gets.items())), *planner.crafts]


def shallowest(book: RecipeBook, item: str) -> Recipe:
    """Return the recipe of an item that needs the fewest levels, and of those the fewest ingredients."""
    return min(book.recipes[item], key=lambda r: (max(book.depth(part) for part, _ in r.inputs), len(r.inputs), r))


def concrete(book: RecipeBook, wanted: str) -> str:
    """Return the item to use for what a recipe asks for: itself, or the shallowest member of the kind."""
    if not book.is_kind(wanted):
        return wanted
    return min(book.members[wanted], key=lambda item: (book.depth(item), item))


class _Planner:
    def __init__(self, book: RecipeBook, stock: Counter[str]) -> None:
        self.book = book
        self.stock = stock
        self.gets: Counter[str] = Counter()
        self.crafts: list[str] = []

    def craft(self, item: str) -> None:
        """Make one batch of an item and put it into the stock."""
        recipe = shallowest(self.book, item)
        used = tuple((self._take(wanted, count), count) for wanted, count in recipe.inputs)
        self.crafts.append(craft_command(item, recipe.count, used))
        self.stock[item] += recipe.count

    def _take(self, wanted: str, count: int) -> str:
        """Take ``count`` of an item out of the stock, after making what is missing; returns which item it was."""
        item = self._choose(wanted, count)
        if self.book.is_raw(item):
            missing = max(0, count - self.stock[item])
            self.gets[item] += missing
            self.stock[item] += missing
        # It ends: the recipes have no cycles, and every round adds at least one.
        while self.stock[item] < count:
            self.craft(item)
        self.stock[item] -= count
        # The unary plus drops zeros: what was there already needs no action.
        self.gets = +self.gets
        return item

    def _choose(self, wanted: str, count: int) -> str:
        """Return an item that is in stock, else the one that is easiest to make."""
        if self.book.is_kind(wanted):
            # One item has to cover the whole amount: two oak planks and one birch plank are not three of a kind.
            there = [item for item in self.book.members[wanted] if self.stock[item] >= count]
            return min(there, default=concrete(self.book, wanted))
        return wanted
