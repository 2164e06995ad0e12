"""The joint posterior against closed forms, and the dominance made from it against known truths."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from agentforge.evaluation.statistics import posterior
from agentforge.evaluation.statistics.posterior import (
    dominance_draws,
    dominance_probability,
    draw_all,
    draw_scores,
    frontier_probability,
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
