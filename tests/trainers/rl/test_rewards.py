"""Rewards by turn: what each function pays, and what a broken one says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentforge.errors import UserError
from agentforge.recipe.loading import Origin, validate
from agentforge.recipe.rl_combinations import BUILT_IN_REWARDS
from agentforge.recipe.schema import Reward
from agentforge.rollouts.episodes import Episode, Turn
from agentforge.trainers.rl.rewards import BUILT_IN, load_rewards, outcome, potential, spec_shaping


def episode(
    scores: list[float],
    *,
    valid: list[bool] | None = None,
    texts: list[str] | None = None,
    environment: str = "agentgym:alfworld",
    terminated: bool = True,
) -> Episode:
    turns = [
        Turn(i, i + 1, (texts or [""] * len(scores))[i], "", 0.0, (valid or [True] * len(scores))[i], score)
        for i, score in enumerate(scores)
    ]
    ids = list(range(len(scores)))
    success = bool(scores) and scores[-1] == 1
    return Episode(
        environment, 7, 0, "p", [0], ids, [1] * len(ids), [0.0] * len(ids), turns, success, scores[-1], terminated,
        not terminated, [], [], 0.0,
    )  # fmt: skip


def test_outcome_pays_the_final_score_at_the_last_turn() -> None:
    assert outcome(episode([0.2, 0.4, 0.5])) == [0, 0, 0.5]
    assert outcome(episode([1.0])) == [1.0]


def test_the_specs_example_earns_what_the_spec_says() -> None:
    rewards = spec_shaping(episode([0, 0, 0, 0, 0, 1]))
    assert rewards == [0.2] * 5 + [1.0] and sum(rewards) == pytest.approx(2.0)
    assert spec_shaping(episode([0, 0], valid=[True, False])) == [0.2, -0.05]
    shop = episode([0, 0, 0.3], texts=["search[mug]", "click[b1]", "click[Buy Now]"], environment="agentgym:webshop")
    assert spec_shaping(shop) == [0.1, 0.3, 1.0]
    assert spec_shaping(episode([0, 1], environment="agentgym:babyai")) == [0, 1]


def test_the_specs_shaping_pays_more_for_stalling_than_for_finishing_unless_capped() -> None:
    stalling, finishing = episode([0.0] * 50, terminated=False), episode([0, 0, 0, 0, 0, 1])
    assert sum(spec_shaping(stalling)) == pytest.approx(10.0) and sum(spec_shaping(finishing)) == pytest.approx(2.0)
    assert sum(spec_shaping(stalling, cap=0.9)) == pytest.approx(0.9)
    assert sum(spec_shaping(finishing, cap=0.9)) == pytest.approx(1.9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.1, 1))
def test_potential_shaping_adds_nothing_to_a_discounted_episode(scores: list[float], gamma: float) -> None:
    rewards = potential(episode(scores), gamma)
    assert sum(gamma**t * reward for t, reward in enumerate(rewards)) == pytest.approx(0, abs=1e-9)


def test_potential_shaping_pays_for_progress_when_it_is_made() -> None:
    assert potential(episode([0.0, 0.5, 0.5, 1.0]), 1.0) == [0, 0.5, 0, -0.5]


def test_weights_and_options_reach_the_functions() -> None:
    loaded = load_rewards(
        [Reward(weight=2.0), Reward(function="spec_shaping", options={"penalty": 1.0}), Reward(function="potential")],
        gamma=0.5,
    )
    assert [reward.weight for reward in loaded] == [2.0, 1.0, 1.0]
    assert loaded[1](episode([0, 0], valid=[False, True])) == [-1.0, 0.2]
    assert loaded[2](episode([0.5, 0.5, 0.0])) == [0.25, -0.25, -0.5]


@pytest.mark.parametrize(
    ("method", "names", "words"),
    [
        ("grpo", ["outcome", "potential"], r"train\.rewards has potential-based shaping, .* would have no effect"),
        ("ppo", ["potential"], "give 'outcome' too"),
        ("ppo", ["outcom"], r"train\.rewards\.0\.function is 'outcom', .*; did you mean 'outcome'"),
    ],
)
def test_functions_that_cannot_teach_anything_are_refused(method: str, names: list[str], words: str) -> None:
    rewards = [{"function": name} for name in names]
    raw = {"name": "x", "model": {"path": "base"}, "train": {"method": method, "rewards": rewards}}
    with pytest.raises(UserError, match=words):
        validate(raw, Origin("x"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["outcome", "nowhere.at:all"], r"train\.rewards\[1\]\.function: .* cannot be imported"),
        (["math:nothing"], "package.module:name"),
    ],
)
def test_a_function_that_cannot_be_imported_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_rewards([Reward(function=name) for name in names], gamma=None)


def test_the_checker_knows_the_built_in_functions() -> None:
    assert tuple(BUILT_IN) == BUILT_IN_REWARDS


def raising(episode: Episode) -> list[float]:
    return [1 / 0]


def not_a_number(episode: Episode) -> list[float]:
    return [float("nan")] * len(episode.turns)


def too_short(episode: Episode) -> list[float]:
    return []


def nothing(episode: Episode) -> Any:
    return None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raising", "it raised ZeroDivisionError: division by zero"),
        ("not_a_number", "it returned nan; a reward is a finite number"),
        ("too_short", "it returned 0 rewards for 2 turns; return one for each turn"),
        ("nothing", "it raised TypeError"),
    ],
)
def test_a_broken_reward_function_is_named_with_environment_and_task(name: str, words: str) -> None:
    target = f"tests.trainers.rl.test_rewards:{name}"
    (reward,) = load_rewards([Reward(function=target)], gamma=1.0)
    with pytest.raises(UserError, match=re.escape(f"reward function {target}, agentgym:alfworld, task 7: {words}")):
        reward(episode([0, 1]))
