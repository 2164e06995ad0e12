"""Every rule against a slow reading of its definition: one pair, one environment at a time."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from agentforge.evaluation.statistics.dominance import RULES, Side, dominates

Model = tuple[list[float], list[int], int]
"""Mean scores, results, and when it was handed in."""


@cache
def limits(score: float, n: int) -> tuple[float, float]:
    posterior = beta(0.5 + score * n, 0.5 + n - score * n)
    return float(posterior.ppf(0.1)), float(posterior.ppf(0.9))


def slow_point(a: Model, b: Model) -> bool:
    pairs = list(zip(a[0], b[0], strict=True))
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def slow_interval(a: Model, b: Model) -> bool:
    better = False
    for x, n, y, m in zip(a[0], a[1], b[0], b[1], strict=True):
        (low_a, high_a), (low_b, high_b) = limits(x, n), limits(y, m)
        if high_a < low_b:
            return False
        better = better or low_a > high_b
    return better


def slow_affine_eps(a: Model, b: Model) -> bool:
    not_worse_all, better_any, tie_all = True, False, True
    for x, n, y, m in zip(a[0], a[1], b[0], b[1], strict=True):
        root = math.sqrt(x * (1 - x) / min(n, 1000) + y * (1 - y) / min(m, 1000))
        margin = max(0.005, 1.28 * root)
        better = min(max(0.015, 0.5 * root), margin)
        not_worse_all &= x >= y - margin
        better_any |= x >= y + better
        tie_all &= abs(x - y) <= margin
    return (not_worse_all and better_any) or (tie_all and a[2] < b[2])


def slow_affine_ci(a: Model, b: Model) -> bool:
    winners = []
    for x, n, y, m in zip(a[0], a[1], b[0], b[1], strict=True):
        (low_a, high_a), (low_b, high_b) = limits(x, n), limits(y, m)
        if n < 200 or m < 200:
            winners.append(None if n < 200 and m < 200 else "b" if n < 200 else "a")
        elif a[2] < b[2]:
            winners.append("b" if low_b > high_a else "a")
        elif b[2] < a[2]:
            winners.append("a" if low_a > high_b else "b")
        else:
            winners.append("a" if low_a > high_b else "b" if low_b > high_a else None)
    return "b" not in winners and "a" in winners


def slow_affine_margin(a: Model, b: Model) -> bool:
    if a[2] == b[2]:
        return False
    first, second = (a, b) if a[2] < b[2] else (b, a)
    wins = [
        later > min(prior + min(max(0.2 * (1 - prior), 0.02), 0.1), 1) + 1e-9
        for prior, later in zip(first[0], second[0], strict=True)
    ]
    return not any(wins) if first is a else all(wins)


def slow_champion_margin(a: Model, b: Model) -> bool:
    if a[2] <= b[2]:
        return False
    dominant = [x > y + 0.03 + 1e-9 for x, y in zip(a[0], b[0], strict=True)]
    not_worse = [x >= y * 0.98 - 1e-9 for x, y in zip(a[0], b[0], strict=True)]
    return any(dominant) and all(d or w for d, w in zip(dominant, not_worse, strict=True))


SLOW = {name.removeprefix("slow_"): rule for name, rule in globals().items() if name.startswith("slow_")}


def as_side(models: list[Model]) -> Side:
    means = np.array([model[0] for model in models])
    n = np.array([model[1] for model in models], dtype=float)
    both = np.array([[limits(x, m) for x, m in zip(*model[:2], strict=True)] for model in models])
    return Side(means, n, both[..., 0], both[..., 1], np.array([model[2] for model in models]), np.ones_like(means))


@st.composite
def model_lists(draw: Any) -> list[Model]:
    environments = draw(st.integers(1, 3))
    # few values, so that ties, margins and limits are met exactly
    scores = st.sampled_from([0.0, 0.02, 0.1, 0.4, 0.49, 0.5, 0.52, 0.53, 0.6, 0.62, 0.9, 1.0])
    counts = st.sampled_from([50, 199, 200, 400, 5000])
    model = st.tuples(
        st.lists(scores, min_size=environments, max_size=environments),
        st.lists(counts, min_size=environments, max_size=environments),
        st.integers(0, 2),
    )
    found: list[Model] = draw(st.lists(model, min_size=2, max_size=4))
    return found


@pytest.mark.parametrize("rule", RULES)
@given(models=model_lists())
@settings(max_examples=60, deadline=None)
def test_a_rule_is_what_its_definition_says(rule: str, models: list[Model]) -> None:
    found = dominates(RULES[rule], as_side(models))
    for row, a in enumerate(models):
        for column, b in enumerate(models):
            assert found[row, column] == (row != column and SLOW[rule](a, b)), (a, b)


def test_every_rule_has_a_slow_reading() -> None:
    assert set(SLOW) == set(RULES)


def test_the_margin_rule_wants_most_tasks_played() -> None:
    models: list[Model] = [([0.5], [100], 0), ([0.9], [100], 1)]
    side = as_side(models)
    assert dominates(RULES["affine_margin"], side)[1, 0]
    partly = Side(*(getattr(side, name) for name in list(side.__dataclass_fields__)[:-1]), np.array([[1.0], [0.89]]))
    assert not dominates(RULES["affine_margin"], partly).any()


def test_a_copy_of_the_incumbent_never_dominates_it_but_for_the_rules_that_ask_no_order() -> None:
    """The validator's asymmetry: a copy handed in later loses to the original under its rules of 2025."""
    copies: list[Model] = [([0.5, 0.7], [400, 400], 0), ([0.5, 0.7], [400, 400], 1)]
    side = as_side(copies)
    for rule in RULES:
        found = dominates(RULES[rule], side)
        assert not found[1, 0], rule
        assert found[0, 1] == (rule in ("affine_eps", "affine_ci", "affine_margin")), rule
