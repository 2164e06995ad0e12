"""What thresholds cost and save, and the picture of a text, from readings whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agentforge.evaluation.losses.halting import halting_picture, threshold_report
from agentforge.evaluation.losses.loss_results import LossEvaluation, measures
from agentforge.evaluation.losses.measure import HeldOut, LossReadings, Measured, Read
from agentforge.evaluation.report.page_halting import halting_charts, threshold_table
from tests.trainers.tiny import tiny_tokenizer

ROWS, TOKENS = 12, 10
HELD = HeldOut([list(range(2, 13))] * ROWS, [[True] * TOKENS] * ROWS, None)


class Steps(LossReadings):
    """Takes as many steps as a token's number says, at most four."""

    exit_thresholds = (0.9, 0.5)
    most_steps = 4

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(1, 1))
        self.model.device = torch.device("cpu")

    def steps(self, ids: Tensor) -> Tensor:
        return ids.clamp(max=4)


def read(loss: float, steps: float, seconds: float, agreeing: float = 9, noise: float = 0.01) -> Read:
    random = np.random.default_rng(0)
    sums = TOKENS * loss * (1 + noise * random.normal(size=ROWS))
    return Read(sums, np.full(ROWS, agreeing), np.full(ROWS, steps * TOKENS), seconds, 1e6 * steps)


def measured(**thresholds: Read) -> Measured:
    found = Measured(ROWS)
    found.thresholds = {"never": read(2.0, 4, 1.2), **{name.replace("_", "."): one for name, one in thresholds.items()}}
    return found


def test_each_threshold_is_held_against_all_steps() -> None:
    found, free = threshold_report(measured(**{"0_9": read(2.01, 3, 0.9), "0_5": read(2.2, 1, 0.4)}), HELD, 0.8)
    assert list(found) == ["never", "0.9", "0.5"] and "regret" not in found["never"]
    assert found["0.9"]["steps"] == {"value": 3.0, "low": 3.0, "high": 3.0} and found["0.9"]["flops"] == 3e6
    assert found["0.5"]["milliseconds"] == pytest.approx(1e3 * 0.4 / (ROWS * TOKENS))
    regret = found["0.5"]["regret"]
    assert regret["low"] < regret["value"] < regret["high"] and regret["value"] == pytest.approx(0.2, rel=0.02)
    # 0.5 is faster, but costs 10 %
    assert free is not None and free["threshold"] == "0.9"
    assert free["time_saved"] == pytest.approx(0.25) and free["steps_saved"] == pytest.approx(0.25)
    assert free["loss_increase"] == pytest.approx(0.005, rel=0.05)


def test_a_threshold_at_which_nothing_stops_is_not_free_because_the_clock_says_so() -> None:
    _, free = threshold_report(measured(**{"0_9": read(2.0, 4, 0.5)}), HELD, 0.8)
    assert free is None


def test_a_threshold_that_may_cost_more_is_not_free() -> None:
    noisy = read(2.01, 3, 0.9, noise=0.2)
    assert threshold_report(measured(**{"0_9": noisy}), HELD, 0.8)[1] is None
    slow = read(2.0, 3, 1.3)
    assert threshold_report(measured(**{"0_9": slow}), HELD, 0.8)[1] is None, "it takes longer than all steps"
    assert threshold_report(Measured(ROWS), HELD, 0.8) == ({}, None)


def test_the_picture_has_the_text_and_the_steps_of_its_tokens() -> None:
    picture = halting_picture(Steps(), HELD, tiny_tokenizer())
    assert picture == {"tokens": [str(n) for n in range(2, 13)], "steps": [2, 3] + [4] * 9, "most": 4}
    plain = Steps()
    plain.steps = lambda ids: None  # type: ignore[assignment]
    assert halting_picture(plain, HELD, tiny_tokenizer()) is None


def test_the_page_shows_thresholds_and_text() -> None:
    thresholds, free = threshold_report(measured(**{"0_9": read(2.01, 3, 0.9)}), HELD, 0.8)
    picture: dict[str, Any] = {"tokens": ["a <b>", "\n", " then"], "steps": [1, 4, 2], "most": 4}
    report = {"widths": {}, "exits": {}, "together": None, "thresholds": thresholds, "free": free, "picture": picture}
    one = LossEvaluation(Path("x"), "speed", {}, report)
    assert list(measures(one)) == ["exit threshold never", "exit threshold 0.9"]
    table = threshold_table([one])
    assert table["rows"][1][:2] == ["speed", "0.9"] and table["rows"][1][-1].startswith("+0.5")
    assert "speed: threshold 0.9 saves 25% of the time of reading" in table["caption"]
    loss, text = halting_charts([one])
    assert "Loss against thinking" in loss["svg"]
    svg = str(text["svg"])
    assert "a &lt;b&gt;: 1 steps" in svg and "↵: 4 steps" in svg
    # the line breaks behind the newline
    assert svg.count('y="4"') == 2 and svg.count('y="26"') == 1
    old = LossEvaluation(Path("x"), "old", {}, {"widths": {}, "exits": {}, "together": None})
    assert threshold_table([old])["rows"] == [] and halting_charts([old]) == []
