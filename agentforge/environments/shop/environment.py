"""A shop to buy in: WebShop's actions and reward over a small catalogue of our own.

It is not WebShop (Yao et al., arXiv 2207.01206) and its scores say nothing about WebShop's: the products are made up, a
thousand instead of a million, and the instructions come out of one pattern. The real one is `agentgym:webshop`.
"""

from __future__ import annotations

import re
from functools import cache
from random import Random
from typing import ClassVar

from agentforge.environments.actions import act_tool
from agentforge.environments.options import as_count
from agentforge.environments.shop.catalogue import Goal, Product, catalogue, goal_of, reward_of
from agentforge.environments.shop.search import Index
from agentforge.environments.text_game import FORMAT, TASKS, InvalidAction, TextGame, TurnOutcome, belongs, say

GRAMMAR = "search[WORDS] | click[LINK]"
RULES = f"""You shop for what the instruction asks. Each turn you take one action:
- search[WORDS]: on the search page, look for products
- click[LINK]: follow one of the links shown in brackets: a product, an option's value, features, a way back, buy now
The reward is the share of wishes that your purchase meets: attributes, options, price. Choose the options before you
buy; buying ends the task. {FORMAT}"""
PAGE = 10
RESULTS = 50
MOST_PRODUCTS = 1_000_000  # a gigabyte
BACK, PREVIOUS, NEXT, FEATURES, BUY = "back to search", "< prev", "next >", "features", "buy now"
_ACTION = re.compile(r"(search|click) ?\[(.*)\]", re.DOTALL)


class Shop(TextGame):
    """Task ``n`` is an instruction drawn with ``n``; the seed of an episode changes nothing.

    A task's difficulty is the number of its wishes beside kind and price, less one (0 to 4).

    Args:
        products: how many the catalogue has.
        max_turns: of an episode.
    """

    id: ClassVar[str] = "shop"
    self_contained: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ("random", "first_result")
    graded: ClassVar[bool] = True

    def __init__(self, products: int = 1000, max_turns: int = 15) -> None:
        super().__init__(max_turns)
        size = as_count(products, f"environments.{self.id}.products", least=10, most=MOST_PRODUCTS)
        self.products = catalogue(size)
        self.index = _index(size)
        self.instructions = RULES
        self.action_tool = act_tool("Take one action in the shop.", GRAMMAR)
        self.goal: Goal
        self._query = ""
        self._results: list[int] = []
        self._page = 0
        self._product: Product | None = None
        self._features = False
        self._chosen: dict[str, str] = {}

    @property
    def tasks(self) -> int:
        return TASKS

    def difficulty(self, task_id: int) -> int:
        goal = self._goal(task_id)
        return len(goal.attributes) + len(goal.options) - 1

    def _goal(self, task_id: int) -> Goal:
        """Return the first goal drawn for a task whose instruction is of its split."""
        random = Random(f"shop/goal/{task_id}")
        # The split is decided by what the model reads: two ids may draw the same instruction.
        while not belongs(self.id, task_id, (goal := goal_of(random, self.products)).instruction):
            pass
        return goal

    def begin(self, seed: int, task_id: int) -> str:
        self.goal = self._goal(task_id)
        self._to_search()
        return f"Instruction: {self.goal.instruction}\n{self._show()}"

    def _to_search(self) -> None:
        self._query, self._results, self._page, self._product, self._features = "", [], 0, None, False

    def _show(self) -> str:
        if self._product is not None:
            return self._show_product(self._product)
        if not self._query:
            return "Search page: search[WORDS]"
        shown = [self.products[number] for number in self._on_page()]
        lines = [f"[{p.code.lower()}] {p.title}, ${p.price:.2f}" for p in shown] or ["Nothing was found."]
        heading = f"Results, page {self._page + 1}:" if shown else "Results:"
        return "\n".join([heading, *lines, " ".join(f"[{link}]" for link in self._ways())])

    def _show_product(self, product: Product) -> str:
        lines = [f"{product.title}, ${product.price:.2f}"]
        for name, values in product.options.items():
            shown = " ".join(f"[{value}]{'*' if self._chosen.get(name) == value else ''}" for value in values)
            lines.append(f"{name}: {shown}")
        if self._features:
            lines.append(f"features: {', '.join(product.attributes)}")
        return "\n".join([*lines, " ".join(f"[{link}]" for link in self._ways())])

    def _on_page(self) -> list[int]:
        return self._results[self._page * PAGE : (self._page + 1) * PAGE]

    def _ways(self) -> list[str]:
        """Return the links of a page other than products and options."""
        if self._product is not None:
            return [BUY, *([] if self._features else [FEATURES]), PREVIOUS, BACK]
        ways = [NEXT] if len(self._results) > (self._page + 1) * PAGE else []
        return [*ways, *([PREVIOUS] if self._page else []), BACK]

    def links(self) -> list[str]:
        """Return what can be clicked."""
        if self._product is not None:
            return [*(value for values in self._product.options.values() for value in values), *self._ways()]
        if not self._query:
            return []
        return [*(self.products[number].code.lower() for number in self._on_page()), *self._ways()]

    def available(self) -> list[str]:
        """Return the links; on the search page, a search for the kind that is wanted."""
        return [f"click[{link}]" for link in self.links()] or [f"search[{self.goal.product.kind.name}]"]

    def act(self, action: str) -> TurnOutcome:
        found = _ACTION.fullmatch(action.strip().lower())
        if found is None:
            raise InvalidAction(f"an action is one of {GRAMMAR}")
        # Lower case and single spaces: links are written so, and models copy them with other capitals.
        text = " ".join(found[2].split())
        if found[1] == "search":
            return self._search(text)
        if text not in self.links():
            raise InvalidAction(f"there is no link [{text}] on this page")
        return self._buy() if text == BUY else self._click(text)

    def _search(self, words: str) -> TurnOutcome:
        if self._query:
            raise InvalidAction(f"you are not on the search page; click[{BACK}] leads there")
        if not words:
            raise InvalidAction("a search needs words")
        self._query, self._results = words, self.index.search(words, RESULTS)
        return TurnOutcome(self._show())

    def _click(self, link: str) -> TurnOutcome:
        product = self._product
        # The order matters: `< prev` means the page before among the results, but the results on a product's page.
        if link == BACK:
            self._to_search()
        elif product is None and link in (NEXT, PREVIOUS):
            self._page += 1 if link == NEXT else -1
        elif product is None:
            # A code is B and the product's number. Options chosen for another product are forgotten.
            self._product, self._chosen = self.products[int(link[1:])], {}
        elif link == PREVIOUS:
            self._product, self._features = None, False
        elif link == FEATURES:
            self._features = True
        else:
            self._chosen[next(name for name, values in product.options.items() if link in values)] = link
        return TurnOutcome(self._show())

    def _buy(self) -> TurnOutcome:
        assert self._product is not None  # the link stands on a product's page only
        reward = reward_of(self.goal, self._product, self._chosen)
        return TurnOutcome(f"You bought it. Reward: {reward:.2f}", reward, reward, reward == 1.0, over=True)

    def expert(self) -> str:
        """Search with the wishes, open the first result that can meet them all, choose, buy."""
        if self._product is None:
            if not self._query:
                return say(f"search[{' '.join(self.goal.attributes)} {self.goal.product.kind.name}]")
            fitting = [number for number in self._on_page() if self._meets(self.products[number])]
            if fitting:
                return say(f"click[{self.products[fitting[0]].code.lower()}]")
            return say(f"click[{NEXT if NEXT in self._ways() else BACK}]")
        if not self._meets(self._product):
            return say(f"click[{PREVIOUS}]")
        lacking = [value for name, value in self.goal.options.items() if self._chosen.get(name) != value]
        return say(f"click[{lacking[0] if lacking else BUY}]")

    def _meets(self, product: Product) -> bool:
        # As if every option had been chosen: a wish that is still open then is one that this product cannot meet.
        sold = {name: value for name, value in self.goal.options.items() if value in product.options.get(name, ())}
        return reward_of(self.goal, product, sold) == 1.0

    def baseline(self, name: str, random: Random) -> str:
        """Return a turn of ``random`` or of ``first_result``, which searches for the instruction and buys the first."""
        if name != "first_result":
            return super().baseline(name, random)
        if self._product is not None:
            return say(f"click[{BUY}]")
        return say(self.available()[0] if self._query else f"search[{self.goal.instruction}]")


# Indexed once for all environments of a process: a catalogue depends on its size alone.
@cache
def _index(size: int) -> Index:
    return Index([f"{p.title} {' '.join(p.attributes)} {p.kind.department}" for p in catalogue(size)])
