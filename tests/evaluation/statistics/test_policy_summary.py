"""Summaries against loops over the results, and intervals against how often they hold the truth."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentforge.evaluation.statistics.intervals import beta_jeffreys, effective_trials
from agentforge.evaluation.statistics.policy_summary import aggregate, summarise

results = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=40)


@given(results)
@settings(max_examples=80, deadline=None)
def test_a_summary_is_what_a_loop_counts(found: list[tuple[int, float]]) -> None:
    tasks, scores = np.array([t for t, _ in found]), np.array([s for _, s in found])
    summary = summarise(scores, (scores >= 0.5).astype(float), tasks, 0.8, graded=True)
    by_task: dict[int, list[float]] = {}
    for task, score in found:
        by_task.setdefault(task, []).append(score)
    assert (summary.n, summary.tasks) == (len(found), len(by_task))
    means = [statistics.fmean(values) for values in by_task.values()]
    assert summary.mean.value == pytest.approx(statistics.fmean(means))
    full = [statistics.fmean([s == 1 for s in values]) for values in by_task.values()]
    assert summary.accuracy.value == pytest.approx(statistics.fmean(full))
    assert summary.median == statistics.median(scores.tolist())
    assert summary.sd == pytest.approx(statistics.stdev(scores.tolist()) if len(found) > 1 else 0.0)
    for measure in (summary.accuracy, summary.success_rate, summary.mean):
        assert 0 <= measure.low <= measure.value + 1e-12 and measure.value - 1e-12 <= measure.high <= 1


def test_success_is_the_environments_word_and_not_a_positive_score() -> None:
    """The spec counts every non-zero score as success; then each shaped episode would succeed."""
    summary = summarise(np.full(10, 0.3), np.zeros(10), np.arange(10), 0.8)
    assert summary.success_rate.value == 0 and summary.accuracy.value == 0
    assert summary.headline == "mean" and summary.mean.value == pytest.approx(0.3)


def test_binary_results_have_the_jeffreys_interval() -> None:
    scores = np.array([1.0] * 30 + [0.0] * 70)
    summary = summarise(scores, scores, np.arange(100), 0.8)
    assert (summary.success_rate.low, summary.success_rate.high) == beta_jeffreys(30, 100, 0.8)
    assert summary.success_rate.kind == "Beta-Jeffreys" and summary.headline == "success_rate"


def test_samples_of_a_task_that_always_agree_count_once() -> None:
    outcomes, tasks = np.repeat([1.0] * 30 + [0.0] * 70, 4), np.repeat(np.arange(100), 4)
    summary = summarise(outcomes, outcomes, tasks, 0.8)
    assert summary.n == 400 and summary.success_rate.n == 100
    assert (summary.success_rate.low, summary.success_rate.high) == pytest.approx(beta_jeffreys(30, 100, 0.8))
    assert effective_trials(np.full(50, 0.5), np.ones(50), 100, 0.8) == 100, "tasks do not differ: every sample counts"


@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_the_clustered_interval_holds_the_truth_as_often_as_it_says(spread: float) -> None:
    """40 tasks of their own difficulty, five samples each; an interval that ignored the tasks would hold it less."""
    rng, held, ignoring = np.random.default_rng(0), 0, 0
    tasks = np.repeat(np.arange(40), 5)
    for _ in range(1500):
        rates = rng.beta(spread * 0.6, spread * 0.4, 40)
        outcomes = (rng.random((40, 5)) < rates[:, None]).astype(float).ravel()
        rate = summarise(outcomes, outcomes, tasks, 0.8).success_rate
        held += rate.low <= 0.6 <= rate.high
        low, high = beta_jeffreys(float(outcomes.sum()), 200, 0.8)
        ignoring += low <= 0.6 <= high
    assert held / 1500 == pytest.approx(0.8, abs=0.035)
    assert ignoring / 1500 < 0.7


def test_aggregates_weigh_as_the_spec_says() -> None:
    large = summarise(np.ones(300), np.ones(300), np.arange(300), 0.8)
    half = np.array([1.0, 0.0] * 50)
    small = summarise(half, half, np.arange(100), 0.8)
    totals = aggregate([large, small], 0.8)
    assert totals["weighted_accuracy"].value == pytest.approx((300 + 50) / 400)
    assert totals["weighted_mean"].value == pytest.approx((300 + 50) / 400)
    assert totals["success_rate"].value == pytest.approx(0.75)
    for total in totals.values():
        assert 0 < total.low < total.value < total.high <= 1


def test_the_interval_of_an_aggregate_holds_the_truth_as_often_as_it_says() -> None:
    rng, held, truth = np.random.default_rng(0), 0, (0.9 + 0.5 + 0.2) / 3
    for _ in range(1500):
        summaries = []
        for rate in (0.9, 0.5, 0.2):
            scores = (rng.random(80) < rate).astype(float)
            summaries.append(summarise(scores, scores, np.arange(80), 0.8))
        total = aggregate(summaries, 0.8)["success_rate"]
        held += total.low <= truth <= total.high
    assert held / 1500 == pytest.approx(0.8, abs=0.035)


def test_nothing_to_summarise_is_no_score() -> None:
    with pytest.raises(ValueError, match="no results"):
        summarise(np.array([]), np.array([]), np.array([]), 0.8)
