"""Statistics: intervals over seeds, paired differences, and verdicts that do not claim what the seeds do not show."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from agentforge.systems.cognate.ablation.arms import Arm, Battery, Question
from agentforge.systems.cognate.ablation.exits import exits_of, interpolated
from agentforge.systems.cognate.ablation.findings import findings_of, mean_curve, read_findings, write_findings
from agentforge.systems.cognate.ablation.page import page_groups, write_tables_and_pictures
from agentforge.systems.cognate.ablation.summary import NO_EFFECT, UNCLEAR, answers, mean_over_seeds
from agentforge.systems.cognate.ablation.tables import markdown
from agentforge.systems.cognate.ablation.tasks.recall import Recall

ARMS = (Arm("memory", Recall()), Arm("none", Recall()))


def outcome(accuracy: float, reached: int | None = None, **more: Any) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "solved_rows": accuracy / 2,
        "reached": reached,
        "budget": 1000,
        "parameters": 1234,
        "flops_per_token": 5.6e4,
        "rate": 0.003,
        "cpu_seconds": 10.0,
        "curve": [[50, accuracy / 2], [100, accuracy]],
        "tests": {"gap 32": accuracy, "gap 64": accuracy / 2},
        "exits": None,
        "picture": None,
    } | more


def asked(measure: Any = "accuracy") -> Battery:
    question = Question("Memory?", measure, ("memory", "none"), (("memory", "none"),))
    return Battery("small", ARMS, (question,), (0, 1, 2))


def found(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], measure: Any = "accuracy") -> Any:
    return answers(asked(measure), {"memory": dict(enumerate(ours)), "none": dict(enumerate(theirs))})[0]


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.90, 0.94, 0.98]
    one = mean_over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=0.94, scale=stats.sem(values))
    assert (one.value, one.low, one.high) == pytest.approx((0.94, low, high)) and one.seeds == 3
    assert mean_over_seeds([0.5]).low == -math.inf, "one seed says nothing about another"


def test_a_difference_is_paired_by_seed() -> None:
    # The seeds differ by far more than the arms do; within each seed the arm is five points better, give or take one.
    ours, theirs = [outcome(x) for x in (0.25, 0.55, 0.86)], [outcome(x) for x in (0.20, 0.51, 0.80)]
    one = found(ours, theirs).effects[0]
    low, high = stats.t.interval(0.95, 2, loc=0.05, scale=stats.sem([0.05, 0.04, 0.06]))
    assert (one.estimate.low, one.estimate.high) == pytest.approx((low, high))
    assert one.verdict == "helps: +5.0 points"


@pytest.mark.parametrize(
    "ours, verdict",
    [((0.5, 0.9, 0.2), UNCLEAR), ((0.5, 0.5, 0.5), NO_EFFECT), ((0.3, 0.31, 0.29), "hurts: -20.0 points")],
)
def test_what_does_not_help_is_said(ours: tuple[float, ...], verdict: str) -> None:
    one = found([outcome(x) for x in ours], [outcome(0.5)] * 3)
    assert one.effects[0].verdict == verdict
    assert verdict in markdown(findings_of(asked(), {"memory": dict(enumerate([outcome(x) for x in ours])),
                                                     "none": dict.fromkeys(range(3), outcome(0.5))}, 60))  # fmt: skip


def test_steps_are_compared_by_their_ratio_and_a_run_that_never_arrived_counts_with_its_budget() -> None:
    ours = [outcome(1, reached) for reached in (100, 200, 250)]
    theirs = [outcome(1, 400), outcome(1, 800), outcome(0.4)]  # the third has the budget, 1,000
    answer = found(ours, theirs, "steps to target")
    assert answer.effects[0].estimate.value == pytest.approx(4) and "4.0x fewer steps" in answer.effects[0].verdict
    assert [row.reached for row in answer.rows] == [3, 2]
    assert answer.rows[1].estimate.value == pytest.approx(2200 / 3)


def test_arms_that_are_not_there_yet_are_left_out() -> None:
    some = answers(asked(), {"memory": {0: outcome(1.0)}, "none": {}})
    assert [row.arm for row in some[0].rows] == ["memory"] and some[0].effects == ()
    assert answers(asked(), {}) == []


def test_a_curve_that_ended_early_stays_where_it_was() -> None:
    runs = [{"curve": [[50, 0.5], [100, 1.0]]}, {"curve": [[50, 0.1], [100, 0.2], [150, 0.3]]}]
    assert [list(point) for point in mean_curve(runs)] == [[50, 0.3], [100, 0.6], [150, 0.65]]


FIXED = [{"steps": 1.0, "accuracy": 0.4, "loss": 2.0}, {"steps": 2.0, "accuracy": 0.6, "loss": 1.0}]


def halting(seed: int) -> dict[str, Any]:
    adaptive = [
        {"threshold": 0.9, "steps": 1.5, "accuracy": 0.6 - 0.001 * seed, "loss": 1.0, "by_position": [1.0, 2.0]}
    ]
    row = {"name": "row 1", "tokens": ["<k>", "v"], "steps": [1, 2], "right": [None, False]}
    picture = {"note": "a note", "rows": [row], "most": 2}
    return outcome(0.6, exits={"fixed": FIXED, "adaptive": adaptive}, picture=picture)


def test_adaptive_exits_are_compared_with_the_same_steps_dealt_out_blindly() -> None:
    assert interpolated(FIXED, 1.5, "accuracy") == pytest.approx(0.5)
    assert interpolated(FIXED, 0.5, "accuracy") == 0.4 and interpolated(FIXED, 2.0, "loss") == 1.0
    exits = exits_of("memory", [halting(seed) for seed in (0, 1, 0)])
    assert exits is not None
    one = exits.adaptive[0]
    assert one.over_blind.value == pytest.approx(0.6 - 0.001 / 3 - 0.5)
    assert one.cost == NO_EFFECT and one.loss_over_full.value == 0 and one.by_position == (1.0, 2.0)
    assert exits_of("none", [outcome(1.0)]) is None


def test_findings_survive_their_file_and_become_tables_and_pictures(tmp_path: Any) -> None:
    outcomes = {"memory": {seed: halting(seed) for seed in range(3)}, "none": {0: outcome(0.04)}}
    findings = findings_of(asked(), outcomes, cpu_seconds=120)
    write_findings(tmp_path, findings)
    assert read_findings(tmp_path) == findings
    write_tables_and_pictures(tmp_path, findings)
    text = (tmp_path / "ablation.md").read_text()
    assert "Recall at growing distance" in text and "Adaptive halting: memory" in text and "one seed" in text
    pictures = sorted(tmp_path.glob("*.svg"))
    assert len(pictures) == 4 and all(file.read_text().count("<svg") == 1 for file in pictures)
    drawn = pictures[-1].read_text()
    assert "&lt;k&gt;" in drawn and "<k>" not in drawn, "tokens are text, not markup"
    groups = page_groups([tmp_path])
    assert len(groups) == 1 and len(groups[0]["charts"]) == 4 and len(groups[0]["tables"]) == 4
