"""The joint posterior against closed forms, and the dominance made from it against known truths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, t

from agentforge.evaluation.statistics import posterior
from agentforge.evaluation.statistics.posterior import (
    declared_dominance,
    difference_tail,
    dominance_draws,
    dominance_probability,
    dominance_tail,
    draw_all,
    draw_scores,
    frontier_probability,
    together_probability,
)


def outcomes(*counts: tuple[list[float], int]) -> np.ndarray:
    return np.array([row for row, count in counts for _ in range(count)])


def test_one_model_has_nearly_jeffreys_posterior() -> None:
    drawn = draw_scores(outcomes(([1.0], 30), ([0.0], 70)), np.random.default_rng(0), draws=40_000)[:, 0]
    exact = beta(30.5, 70.5)
    assert drawn.mean() == pytest.approx(exact.mean(), abs=1e-3)
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(exact.ppf([0.1, 0.5, 0.9]), abs=3e-3)


def test_pairing_by_task_narrows_the_difference() -> None:
    """Models that agree on 90 of 100 tasks differ by what the other ten say: variance (win + lose - d^2) / n."""
    paired = outcomes(([1.0, 1.0], 45), ([0.0, 0.0], 45), ([1.0, 0.0], 8), ([0.0, 1.0], 2))
    drawn = draw_scores(paired, np.random.default_rng(0), draws=20_000)
    difference = drawn[:, 0] - drawn[:, 1]
    assert difference.mean() == pytest.approx(0.06, abs=0.003)
    assert difference.std() == pytest.approx(((0.1 - 0.06**2) / 100) ** 0.5, rel=0.05)
    unpaired = (0.53 * 0.47 / 100 + 0.47 * 0.53 / 100) ** 0.5
    assert difference.std() < unpaired / 2


def test_the_normal_limit_is_the_same_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(1).beta(2, 3, (500, 2))
    scores[:, 1] = (scores[:, 0] + scores[:, 1]) / 2
    weighted = draw_scores(scores, np.random.default_rng(0))
    monkeypatch.setattr(posterior, "MANY", 10)
    normal = draw_scores(scores, np.random.default_rng(0))
    assert normal.mean(axis=0) == pytest.approx(weighted.mean(axis=0), abs=2e-3)
    assert np.cov(normal.T) == pytest.approx(np.cov(weighted.T), rel=0.15)


def test_dominance_of_a_draw_is_nowhere_worse_and_somewhere_better() -> None:
    """Five draws of two environments; the difference of the first model to the second stands in each line."""
    differences = np.array([[0.1, 0.0], [0.1, -0.01], [0.1, -0.03], [0.01, 0.01], [0.021, -0.019]])
    drawn = np.stack([0.5 + differences, np.full_like(differences, 0.5)], axis=-1)
    assert dominance_draws(drawn, 0.02)[:, 0, 1].tolist() == [True, True, False, False, True]
    assert not dominance_draws(drawn, 0.02)[:, 1, 0].any()


def test_a_clear_winner_dominates_and_equals_do_not() -> None:
    rng = np.random.default_rng(0)
    best, worst, twin = (rng.random((300, 3)) < rate for rate in (0.9, 0.4, 0.4))
    scores = [np.stack([best[:, e], worst[:, e], twin[:, e]], axis=1).astype(float) for e in range(3)]
    drawn = draw_all(scores)
    probability = dominance_probability(drawn)
    assert probability[0, 1] > 0.99 and probability[0, 2] > 0.99
    assert probability[1, 2] < 0.6 and probability[2, 1] < 0.6 and probability[1, 0] == 0
    assert (np.diag(probability) == 0).all()
    on = frontier_probability(drawn)
    assert on[0] > 0.99 and on[1] < 0.01 and on[2] < 0.01


def test_more_environments_make_equals_dominate_less() -> None:
    """The correction for their number: "nowhere worse" gets rarer faster than "somewhere better" gets common."""
    rng = np.random.default_rng(0)
    scores = [(rng.random((100, 2)) < 0.5).astype(float) for _ in range(12)]
    few, many = (dominance_probability(draw_all(scores[:count])) for count in (2, 12))
    assert many.max() < few.max() + 0.05
    assert many.max() < 0.05


def test_the_same_seed_draws_the_same() -> None:
    scores = [np.random.default_rng(3).random((50, 2))]
    assert (draw_all(scores, seed=5) == draw_all(scores, seed=5)).all()
    assert (draw_all(scores, seed=5) != draw_all(scores, seed=6)).any()


# -- what may be declared -------------------------------------------------------------------------------------------


def played(rates: list[list[float]], tasks: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return right and wrong answers, (tasks, models) of each environment; rates (models, environments)."""
    return [(rng.random((tasks, len(rates))) < np.array(rates)[:, e]).astype(float) for e in range(len(rates[0]))]


def declares(scores: list[np.ndarray], draws: int = 500) -> np.ndarray:
    return declared_dominance(scores, draw_all(scores, draws=draws))


@pytest.mark.parametrize("threshold", [-0.02, 0.02, 0.1])
def test_the_tail_of_a_difference_is_that_of_the_draws(threshold: float) -> None:
    scores = np.random.default_rng(4).beta(2, 3, (300, 3))
    scores[:, 1] = (scores[:, 0] + scores[:, 1]) / 2
    drawn = draw_scores(scores, np.random.default_rng(0), draws=40_000)
    below = (drawn[:, :, None] - drawn[:, None, :] <= threshold).mean(axis=0)
    off = ~np.eye(3, dtype=bool)  # a model's difference to itself has no coin
    assert difference_tail(scores, threshold)[off] == pytest.approx(below[off], abs=0.015)


def test_the_moments_behind_the_tail_are_those_of_the_dirichlet_weights() -> None:
    """Three tasks, two models: mean and variance of the weighted difference by hand, for each fall of the coins."""
    scores = np.array([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0]])
    difference = scores[:, 0] - scores[:, 1]
    means, variances = [], []
    for coin in (-1, 0, 0, 1):
        values = np.append(difference, coin)
        mean = values.mean()
        means.append(mean)  # of Dirichlet(1, 1, 1, 1): covariance (1[i = j] / 4 - 1 / 16) / 5
        covariance = (np.eye(4) / 4 - 1 / 16) / 5
        variances.append(values @ covariance @ values)
    sd = (np.mean(variances) + np.var(means)) ** 0.5
    assert difference_tail(scores, 0.1)[0, 1] == pytest.approx(t(3).cdf((0.1 - np.mean(means)) / sd))


def slow_tail(scores: list[np.ndarray], row: int, column: int, rope: float) -> float:
    environments = len(scores)
    worse = [difference_tail(one, -rope)[row, column] for one in scores]
    not_better = sorted(difference_tail(one, rope)[row, column] for one in scores)
    simes = min(environments * tail / (rank + 1) for rank, tail in enumerate(not_better))
    return max([*worse, simes])


@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_the_surprise_of_a_pair_is_what_a_loop_over_environments_says(
    environments: int, models: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = [rng.random((30, models)) for _ in range(environments)]
    tail = dominance_tail(scores, 0.02)
    for row in range(models):
        for column in range(models):
            expected = 1.0 if row == column else slow_tail(scores, row, column, 0.02)
            assert tail[row, column] == pytest.approx(expected)


@pytest.mark.parametrize(("models", "runs"), [(2, 200), (20, 40)])
def test_equal_models_are_rarely_said_to_dominate_however_many_there_are(models: int, runs: int) -> None:
    """Pair by pair some of 20 equal models is above 95 % in nine of ten runs."""
    rng, by_pair, together = np.random.default_rng(0), 0, 0
    for _ in range(runs):
        scores = played([[0.5]] * models, 100, rng)
        drawn = draw_all(scores, draws=500)
        by_pair += bool((dominance_probability(drawn) > 0.95).any())
        together += bool(declared_dominance(scores, drawn).any())
    assert together / runs <= 0.05
    assert models == 2 or by_pair / runs > 0.8


def test_a_gap_below_the_rope_is_not_declared_because_there_are_many_environments() -> None:
    """Better by 0.015 in eight environments of 10,000 tasks: somewhere it looks like more than 0.02, and is not."""
    rng = np.random.default_rng(0)
    declared = by_joint_posterior = 0
    for _ in range(5):
        scores = played([[0.515] * 8, [0.5] * 8], 10_000, rng)
        drawn = draw_all(scores, draws=500)
        declared += bool(declared_dominance(scores, drawn).any())
        by_joint_posterior += dominance_probability(drawn)[0, 1] > 0.95
    assert declared == 0
    assert by_joint_posterior > 1, "a posterior probability of the maximum over environments is taken in"


def test_a_model_that_is_worse_somewhere_is_not_said_to_dominate() -> None:
    rng = np.random.default_rng(0)
    runs = [played([[0.8, 0.8, 0.45], [0.5, 0.5, 0.5]], 400, rng) for _ in range(40)]
    assert sum(bool(declares(scores)[0, 1]) for scores in runs) <= 2


@pytest.mark.parametrize("models", [2, 10])
def test_a_model_that_is_better_is_found_among_many(models: int) -> None:
    rng = np.random.default_rng(1)
    scores = played([[0.75, 0.75], *[[0.5, 0.5]] * (models - 1)], 400, rng)
    declared = declares(scores)
    assert declared[0, 1:].all() and not declared[1:].any()


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_all_that_is_declared_holds_together(seed: int, models: int, environments: int) -> None:
    rng = np.random.default_rng(seed)
    scores = played(rng.uniform(0.1, 0.9, (models, environments)).tolist(), 150, rng)
    drawn = draw_all(scores, draws=500)
    declared = declared_dominance(scores, drawn)
    assert together_probability(drawn, declared) >= 0.95
    assert not (declared & declared.T).any(), "no two dominate each other"


def test_one_model_and_no_shared_task_declare_nothing() -> None:
    assert not declares([np.ones((10, 1))]).any()
    assert not declares([np.zeros((0, 3))]).any()
