"""Environments are made by id, and what is wrong with one is said in one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from agentforge.environments.base import Environment, Info, Step
from agentforge.environments.registry import ENVIRONMENTS, check_options, load_class, make
from agentforge.environments.sat.environment import Sat
from agentforge.errors import UserError


class Echo(Environment):
    """One of a user's own."""

    id = "test:echo"
    instructions = "Say it."

    def __init__(self, said: str = "hello", max_turns: int = 1) -> None:
        if said == "broken":
            raise TypeError("a mistake of its own")
        self.said = said
        self.max_turns = max_turns

    @property
    def tasks(self) -> int:
        return 10

    def reset(self, seed: int, task_id: int) -> str:
        return self.said

    def step(self, text: str) -> Step:
        right = text == self.said
        return Step("", float(right), True, False, Info(success=right, valid_action=True, score=float(right)))


class Anything(Echo):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options


def test_ours_are_made_with_their_options() -> None:
    environment = make("affine:sat", {"n_vars": 5, "k": 2})
    assert isinstance(environment, Sat)
    assert environment.n_vars == (5, 5)
    assert {make(id).id for id in ("affine:sat", "affine:abd", "affine:ded")} == {
        "affine:sat",
        "affine:abd",
        "affine:ded",
    }


def test_one_of_your_own_is_a_class_and_a_line() -> None:
    environment = make("mine", {"class": f"{__name__}:Echo", "said": "ho"})
    assert environment.reset(0, 0) == "ho"
    assert environment.step("ho").info["success"]
    assert make("mine", {"class": f"{__name__}:Anything", "a": 1}).options == {"a": 1}  # type: ignore[attr-defined]


def test_the_options_given_are_left_as_they_are() -> None:
    options = {"class": f"{__name__}:Echo"}
    make("mine", options)
    assert "class" in options


@pytest.mark.parametrize(
    ("id", "options", "said"),
    [
        ("affine:sad", {}, "unknown environment 'affine:sad'; did you mean 'affine:sat'?"),
        ("quite different", {}, "class: package.module:Class"),
        ("affine:sat", {"n_var": 5}, "affine:sat has no option 'n_var'; did you mean 'n_vars'?"),
        ("affine:abd", {"x": 5}, "affine:abd has no option 'x'; it has: corpus"),
        ("mine", {"class": "no.such.module:Class"}, "environments.mine.class: no.such.module:Class cannot be imported"),
        ("mine", {"class": f"{__name__}:Nothing"}, "cannot be imported"),
        ("mine", {"class": "Echo"}, "is not a class; write it as package.module:Class"),
        ("mine", {"class": 5}, "environments.mine.class: 5 is not a class; write it as package.module:Class"),
        ("mine", {"class": ".registry:make"}, "is not a class; write it as"),
        ("affine:sat", {5: 5}, "affine:sat has no option '5'"),
        ("affine:abd", {"allow_unisolated": "false"}, "allow_unisolated must be true or false, not 'false'"),
        ("affine:ded", {"timeout": float("inf")}, "timeout must be a number above 0 to 3600, not inf"),
        ("agentgym:babyai", {"levels": "GoToLocal"}, "levels must be a list of names, not 'GoToLocal'"),
        ("agentgym:babyai", {"levels": [["GoToLocal"]]}, "levels must be a list of names"),
        ("shop", {"products": 10**9}, "products must be a whole number, from 10 to 1,000,000"),
        ("mine", {"class": ""}, "unknown environment 'mine'"),
        ("mine", {"class": "json:JSONDecoder"}, "is not a subclass of"),
        ("mine", {"class": "json:loads"}, "is not a subclass of"),
        ("mine", {"class": f"{__name__}:Echo", "said": "broken"}, "environments.mine: a mistake of its own"),
    ],
)
def test_what_is_wrong_is_said(id: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        make(id, options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_options_are_proved_without_what_they_need() -> None:
    """`show` and `plan` run where neither server nor extra nor corpus is, and where the user's class need not be."""
    check_options({
        "affine:sat": {}, "affine:abd": {"corpus": "not/here"}, "agentgym:webshop": {"url": "http://127.0.0.1:1"},
        "mine": {"class": "no.such.module:Class"}, "shop": None,
    })  # fmt: skip
    with pytest.raises(UserError, match="has no option 'corpse'; did you mean 'corpus'"):
        check_options({"affine:abd": {"corpse": "x"}})
    with pytest.raises(UserError, match="5 variables, 31 clauses and k = 5 none is unsatisfiable"):
        check_options({"shop": {}, "affine:sat": {"n_vars": [5, 8], "unsat_share": 0.3}})
    with pytest.raises(UserError, match="unknown environment 'affine:sta'; did you mean"):
        check_options({"affine:sta": {}})


def test_every_id_has_its_class() -> None:
    for id, target in ENVIRONMENTS.items():
        module = target.partition(":")[0]
        try:
            found = load_class(target, id)
        except UserError as error:
            assert module in str(error)  # its extra is not installed
        else:
            assert found.id == id
