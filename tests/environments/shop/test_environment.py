"""The shop: its search, its pages, its reward and what buys without reading."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from agentforge.environments.registry import make
from agentforge.environments.shop.catalogue import Goal, catalogue, reward_of
from agentforge.environments.shop.environment import Shop
from agentforge.environments.shop.search import Index, words_of
from agentforge.environments.splits import split_of
from agentforge.errors import UserError
from tests.environments.playing import baseline, expert, mean_score, play, same_in_every_process, success_rate


@pytest.fixture(scope="module")
def shop() -> Shop:
    environment = make("shop")
    assert isinstance(environment, Shop)
    return environment


def test_expert_buys_what_is_wanted(shop: Shop) -> None:
    for task in range(150):
        steps = play(shop, expert, task)
        assert steps[-1].info["success"], shop.goal.instruction
        assert steps[-1].reward == steps[-1].info["score"] == 1
        assert all(step.info["valid_action"] for step in steps)
        assert len(steps) <= 12


def test_trivial_strategies_earn_something_and_succeed_hardly_ever(shop: Shop) -> None:
    tasks = range(150)
    assert success_rate(shop, baseline("random"), tasks) < 0.05
    assert success_rate(shop, baseline("first_result"), tasks) < 0.2
    assert 0.1 < mean_score(shop, baseline("random"), tasks) < mean_score(shop, baseline("first_result"), tasks) < 0.8


def test_reward_by_hand() -> None:
    products = catalogue(1000)
    shoes = next(p for p in products if p.kind.department == "shoes" and len(p.attributes) >= 2)
    size, color = shoes.options["size"][0], shoes.options["color"][0]
    goal = Goal(shoes, shoes.attributes[:2], {"size": size, "color": color}, int(shoes.price) + 1)
    assert reward_of(goal, shoes, {"size": size, "color": color}) == 1
    assert reward_of(goal, shoes, {"size": size}) == pytest.approx(4 / 5)
    assert reward_of(goal, shoes, {}) == pytest.approx(3 / 5)
    dear = Goal(shoes, shoes.attributes[:2], goal.options, int(shoes.price))
    assert reward_of(dear, shoes, {}) == pytest.approx(2 / 5)
    food = next(p for p in products if p.kind.department == "food")
    assert reward_of(goal, food, {}) == 0
    other = next(p for p in products if p.kind.department == "shoes" and p.kind != shoes.kind)
    met = sum(attribute in other.attributes for attribute in goal.attributes) + (other.price <= goal.price)
    assert reward_of(goal, other, {}) == pytest.approx(0.5 * met / 5)


def test_every_goal_can_be_met(shop: Shop) -> None:
    for task in range(500):
        goal = shop._goal(task)
        assert reward_of(goal, goal.product, goal.options) == 1
        assert all(wish in goal.instruction for wish in (*goal.attributes, *goal.options.values()))


def test_search_is_bm25() -> None:
    documents = ["red shoes", "red red hat with a long brim", "blue shoe", "green socks"]
    index = Index(documents)
    lengths = [2, 7, 2, 2]
    rarity = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))

    def score(number: int) -> float:
        count = Counter(words_of(documents[number]))["red"]
        return rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * lengths[number] / (13 / 4)))

    assert index.search("red", 9) == sorted([0, 1], key=lambda n: -score(n))
    assert index.search("red shoes", 9)[0] == 0
    assert index.search("shoe", 1) == [0]
    assert index.search("violin", 9) == []


def test_an_episode_by_hand(shop: Shop) -> None:
    assert shop.reset(0, 3).startswith("Instruction: Find ")
    assert "no link [buy now]" in shop.step("Action: click[buy now]").observation
    assert "a search needs words" in shop.step("Action: search[ ]").info["problem"]
    results = shop.step("Action: search[jeans]").observation
    assert results.startswith("Results, page 1:") and "[next >]" in results and "[< prev]" not in results
    assert "not on the search page" in shop.step("Action: search[boots]").info["problem"]
    assert "page 2" in shop.step("Action: click[Next >]").observation
    assert shop.step("Action: click[< Prev]").observation == results
    product = shop.products[shop._results[0]]
    page = shop.step(f"Action: click[{product.code}]").observation
    assert page.startswith(product.title)
    assert "features: " + ", ".join(product.attributes) in shop.step("Action: click[features]").observation
    value = product.options["size"][0]
    assert f"[{value}]*" in shop.step(f"Action: click[{value}]").observation
    assert shop.step("Action: click[< prev]").observation == results
    assert "Search page" in shop.step("Action: click[back to search]").observation
    assert "Nothing was found" in shop.step("Action: search[qwertz]").observation
    assert "an action is one of search[WORDS]" in shop.step("Action: buy the jeans").observation


def test_options_of_one_product_are_not_those_of_the_next(shop: Shop) -> None:
    shop.reset(0, 3)
    shop.step("Action: search[jeans]")
    first, second = (shop.products[number].code for number in shop._results[:2])
    shop.step(f"Action: click[{first}]")
    shop.step(f"Action: click[{shop.products[shop._results[0]].options['size'][0]}]")
    shop.step("Action: click[< prev]")
    assert "]*" not in shop.step(f"Action: click[{second}]").observation


def test_buying_ends_the_task_with_part_of_the_reward(shop: Shop) -> None:
    steps = play(shop, baseline("first_result"), 3)
    assert steps[-1].terminated
    assert 0 < steps[-1].reward < 1
    assert not steps[-1].info["success"]
    assert [step.reward for step in steps[:-1]] == [0, 0]


def test_a_larger_catalogue_begins_with_the_smaller() -> None:
    assert catalogue(1000)[:50] == catalogue(50)


def test_no_instruction_is_in_both_splits() -> None:
    shop = Shop(products=10)  # so few that draws repeat
    shown: dict[str, set[str]] = {"train": set(), "eval": set()}
    for task in range(1500):
        shown[split_of(shop.id, task)].add(shop.reset(0, task))
    assert sum(map(len, shown.values())) < 1200
    assert not shown["train"] & shown["eval"]


def test_same_episode_whatever_the_hash_seed() -> None:
    assert same_in_every_process("shop", {}, [0, 1, 2, 3], turns=8)


@pytest.mark.parametrize("size", [0, 9, "many"])
def test_bad_options(size: object) -> None:
    with pytest.raises(UserError, match="products must be a whole number, from 10 to 1,000,000"):
        make("shop", {"products": size})
