"""LayerSkip's weights and probabilities against its formulas, written out."""

from __future__ import annotations

import math

import pytest

from agentforge.losses.early_exit import exit_weights, layer_dropout, rotated


def test_the_weights_are_the_papers() -> None:
    depth, scale = 8, 0.3
    raw = {exit: scale * sum(range(exit)) for exit in (3, 5)} | {depth: depth - 1 + scale * sum(range(depth - 1))}
    expected = {exit: weight / sum(raw.values()) for exit, weight in raw.items()}
    assert exit_weights([3, 5], depth, scale) == pytest.approx(expected)


def test_the_first_exit_counts_too_and_none_counts_at_scale_zero() -> None:
    first = exit_weights([1, 2], 4, 1.0)
    assert 0 < first[1] < first[2] < first[4] and sum(first.values()) == pytest.approx(1)
    assert exit_weights([1, 2], 4, 0.0) == {1: 0.0, 2: 0.0, 4: 1.0}
    assert exit_weights([], 1, 0.5) == {1: 1.0}


def test_dropout_grows_with_depth_and_with_the_run() -> None:
    shares = layer_dropout(5, 0.2)
    assert shares == pytest.approx([0.2 * (math.exp(layer * math.log(2) / 4) - 1) for layer in range(5)])
    assert shares[0] == 0 and shares[-1] == pytest.approx(0.2)
    assert layer_dropout(5, 0.2, progress=0.0) == [0.0] * 5
    half = layer_dropout(5, 0.2, progress=0.5)
    assert half == pytest.approx([(math.sqrt(2) - 1) * share for share in shares])


def test_exits_take_turns() -> None:
    assert [rotated([2, 4, 6], step) for step in range(4)] == [[2], [4], [6], [2]]
    assert rotated([], 3) == []
