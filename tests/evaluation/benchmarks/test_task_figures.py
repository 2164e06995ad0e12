"""Intervals of every kind of metric that lm-eval has."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from agentforge.evaluation.benchmarks import task_figures
from agentforge.evaluation.benchmarks.task_figures import figures, measured_on
from agentforge.evaluation.own_scores import Figure, cell, heading, verdict
from agentforge.evaluation.statistics.intervals import beta_jeffreys


def figure_of(values: list[Any], aggregate: Any, value: float) -> Figure:
    samples = [{"filter": "none", "metrics": ["m"], "m": one, "doc": {}} for one in values]
    task = SimpleNamespace(
        task_name="t",
        OUTPUT_TYPE="loglikelihood_rolling",
        aggregation=lambda: {"m": aggregate},
        get_config=lambda _: None,
    )
    return figures(task, {"m,none": value}, samples, 0.8, "x")["t m"]


def test_right_and_wrong_have_the_house_interval() -> None:
    found = figure_of([1, 0.0, True, 1.0], None, 0.75)
    assert (found.low, found.high) == beta_jeffreys(3, 4, 0.8)


def test_bits_and_perplexities_carry_the_interval_of_the_likelihood() -> None:
    from lm_eval.api.metrics import bits_per_byte, weighted_perplexity

    values = [(-10.0, 10), (-24.0, 20), (-30.0, 25)]
    bits = figure_of(values, bits_per_byte, bits_per_byte(values))
    perplexity = figure_of(values, weighted_perplexity, weighted_perplexity(values))
    assert bits.low < bits.value < bits.high
    assert perplexity.low == pytest.approx(math.exp(bits.low * math.log(2)))


def test_a_graded_mean_and_a_score_that_is_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api.metrics import f1_score

    graded = figure_of([0.2, 0.5, 0.9, 0.4], None, 0.5)
    assert 0.2 < graded.low < 0.5 < graded.high < 0.9
    monkeypatch.setattr(task_figures, "RESAMPLES", 50)
    pairs = [(1, 1), (1, 0), (0, 0), (1, 1), (0, 1), (0, 0)] * 3
    f1 = figure_of(pairs, f1_score, f1_score(pairs))
    assert f1.low < f1.value <= f1.high


def test_the_verdict_needs_both_levels_to_be_outside() -> None:
    def judged(low: float, high: float) -> str:
        return verdict(Figure((low + high) / 2, low, high, 100, 0.5, "", 0.62))

    assert judged(0.45, 0.55) == "not distinguishable from chance"
    assert judged(0.58, 0.66) == "not distinguishable from chance"
    assert judged(0.55, 0.60) == "below the majority level"
    assert judged(0.63, 0.70) == ""
    shown = Figure(0.65, 0.63, 0.7, 100, 0.5, "", 0.62)
    assert cell(shown) == "0.65 [0.63, 0.7] (n 100)"
    assert heading("boolq acc", [shown]) == "boolq acc, chance 0.5, majority 0.62"


def test_another_version_row_prompt_or_setting_is_another_measurement() -> None:
    task = SimpleNamespace(task_name="t", VERSION=1, OUTPUT_TYPE="multiple_choice", get_config=lambda _: None)
    row = {"doc_id": 0, "doc_hash": "a", "prompt_hash": "b", "target_hash": "c"}
    one = measured_on(task, {"shots": 0}, [row])
    assert one == measured_on(task, {"shots": 0}, [dict(row), dict(row)])  # two filters show a row twice
    assert one != measured_on(task, {"shots": 5}, [row])
    assert one != measured_on(task, {"shots": 0}, [{**row, "doc_hash": "z"}])
    assert one != measured_on(task, {"shots": 0}, [{**row, "prompt_hash": "z"}])
    assert one != measured_on(SimpleNamespace(**{**vars(task), "VERSION": 2}), {"shots": 0}, [row])
