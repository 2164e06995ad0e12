"""Measures of diversity against their definitions, and the verdict beside a control."""

from __future__ import annotations

import numpy as np
import pytest

from agentforge.evaluation.statistics.bootstrap import row_weights
from agentforge.evaluation.statistics.diversity import (
    Estimate,
    SetSums,
    findings,
    latency_ratio,
    pair_measures,
    pairs,
    set_measures,
    verdict,
)
from agentforge.evaluation.statistics.intervals import Array

ROWS, TOKENS = 30, 20


def sums_of(right: Array, distance: float = 0.1, steps: tuple[float, ...] = (1.0, 2.0, 3.0)) -> SetSums:
    """Return the sums of three models of which `(rows, tokens, 3)` tokens are right."""
    both = [~right[..., a] & ~right[..., b] for a, b in pairs(3)]
    apart = [right[..., a] != right[..., b] for a, b in pairs(3)]
    return SetSums(
        tokens=np.full(ROWS, float(TOKENS)),
        correct=right.sum(1).astype(float),
        disagree=np.stack(apart, -1).sum(1).astype(float),
        distance=np.full((ROWS, 3), distance * TOKENS),
        both_wrong=np.stack(both, -1).sum(1).astype(float),
        vote=(right.sum(-1) >= 2).sum(1).astype(float),
        oracle=right.any(-1).sum(1).astype(float),
        quantities={"steps": np.tile(np.array(steps) * TOKENS, (ROWS, 1))},
    )


def right_at_random(seed: int, share: float = 0.5) -> Array:
    return np.random.default_rng(seed).random((ROWS, TOKENS, 3)) < share


def test_measures_are_what_they_are_defined_as() -> None:
    right = right_at_random(0)
    weights = row_weights(ROWS, seed=0, resamples=3)
    found = set_measures(sums_of(right), weights)
    # the same for the third resample, by repeating its rows
    for sample in (0, 3):
        flat = np.repeat(right, weights[sample].astype(int), axis=0).reshape(-1, 3)
        accuracy = flat.mean(0)
        phi = [np.corrcoef(~flat[:, a], ~flat[:, b])[0, 1] for a, b in pairs(3)]
        expected = {
            "js": 0.1,
            "disagreement": np.mean([(flat[:, a] != flat[:, b]).mean() for a, b in pairs(3)]),
            "double_fault": np.mean([(~flat[:, a] & ~flat[:, b]).mean() for a, b in pairs(3)]),
            "error_correlation": np.mean(phi),
            "vote_gain": (flat.sum(1) >= 2).mean() - accuracy.max(),
            "oracle_gain": flat.any(1).mean() - accuracy.max(),
            "steps_spread": 2.0,
        }
        assert {name: values[sample] for name, values in found.items()} == pytest.approx(expected)


def test_a_model_that_is_always_right_has_no_error_correlation() -> None:
    right = right_at_random(0)
    right[..., 1] = True
    assert "error_correlation" not in pair_measures(sums_of(right), row_weights(ROWS, 0, 5))


def test_only_what_is_beyond_the_control_counts() -> None:
    weights = row_weights(ROWS, seed=0, resamples=500)
    alike = np.repeat(right_at_random(1)[..., :1], 3, axis=-1)
    diverse = set_measures(sums_of(right_at_random(2), steps=(1, 2, 4)), weights)
    seeds = set_measures(sums_of(alike, steps=(2, 2, 2)), weights)
    found = findings(diverse, seeds, ROWS, 0.8)
    more = {name for name, one in found.items() if one.verdict == "differ more than seeds do"}
    # less double fault and less correlation are more diversity; the distances are equal
    assert more >= {"disagreement", "double_fault", "error_correlation", "oracle_gain", "steps_spread"}
    assert found["js"].verdict == "no difference"
    swapped = findings(seeds, diverse, ROWS, 0.8)
    assert {swapped[name].verdict for name in more} == {"differ less than seeds do"}
    same = findings(diverse, diverse, ROWS, 0.8)
    assert {one.verdict for one in same.values()} == {"no difference"}
    assert all(one.verdict is None and one.control is None for one in findings(diverse, None, ROWS, 0.8).values())


def test_models_drawn_alike_rarely_pass_for_diverse() -> None:
    """Two sets whose truth is the same: at 80 % confidence about a tenth lies above."""
    above = 0
    for seed in range(100):
        weights = row_weights(ROWS, seed=seed, resamples=300)
        ours = {"disagreement": set_measures(sums_of(right_at_random(2 * seed)), weights)["disagreement"]}
        theirs = {"disagreement": set_measures(sums_of(right_at_random(2 * seed + 1)), weights)["disagreement"]}
        above += findings(ours, theirs, ROWS, 0.8)["disagreement"].verdict == "differ more than seeds do"
    assert 3 <= above <= 19


def test_an_interval_that_touches_0_says_nothing() -> None:
    assert verdict(Estimate(0.1, 0.0, 0.2)) == "no difference"
    assert verdict(Estimate(0.1, 1e-9, 0.2)) == "differ more than seeds do"
    assert verdict(Estimate(0.1, 1e-9, 0.2), direction=-1) == "differ less than seeds do"


def test_the_latency_ratio_is_slowest_by_fastest() -> None:
    seconds = np.array([[1.0, 2.0, 4.0], [3.0, 2.0, 4.0]])
    assert latency_ratio(seconds, np.array([[1.0, 1.0], [2.0, 0.0]])) == pytest.approx([2.0, 4.0])
