"""What guessing and one constant answer would score, on rows whose levels are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agentforge.evaluation.benchmarks.levels import levels


def choosing(several_inputs: bool = False) -> Any:
    return SimpleNamespace(
        OUTPUT_TYPE="multiple_choice",
        multiple_input=several_inputs,
        doc_to_choice=lambda doc: doc["choices"],
        doc_to_target=lambda doc: doc["gold"],
        doc_to_text=lambda doc: doc["gold"],
    )


def test_chance_is_the_mean_over_rows_and_majority_the_commonest_place() -> None:
    docs = [
        {"choices": list("abcd"), "gold": 1},
        {"choices": list("abc"), "gold": 1},  # ARC has questions with three choices
        {"choices": list("ab"), "gold": "a"},  # by its text
        {"choices": list("abcd"), "gold": [0, 1]},  # two are right
    ]
    chance, majority = levels(choosing(), "acc", docs, True)
    assert chance == pytest.approx((1 / 4 + 1 / 3 + 1 / 2 + 2 / 4) / 4)
    assert majority == 3 / 4
    assert levels(choosing(several_inputs=True), "acc_norm", docs[:2], True) == (pytest.approx(7 / 24), 1.0)


def test_a_choice_that_is_not_there_is_never_right() -> None:
    assert levels(choosing(), "acc", [{"choices": ["a", "b"], "gold": "c"}], True) == (0.0, 0.0)


def test_graded_metrics_have_no_level() -> None:
    assert levels(choosing(), "brier_score", [{"choices": ["a"], "gold": 0}], False) == (None, None)


def test_a_written_answer_is_compared_as_the_metric_compares_it() -> None:
    """GSM8K's targets are whole solutions, all different; what counts is the number behind ####."""
    task = SimpleNamespace(
        OUTPUT_TYPE="generate_until",
        _metric_fn_kwargs={"exact_match": {"ignore_case": True, "regexes_to_ignore": [",", r"(?s).*#### ", r"\.$"]}},
        doc_to_target=lambda doc: doc,
        get_config=lambda name: None,
    )
    docs = ["One.\n#### 1,000", "Other.\n#### 1000", "#### 7.", "#### 8"]
    assert levels(task, "exact_match", docs, True) == (0.0, 0.5)
    assert levels(task, "pass_at_1", docs, True) == (0.0, None)
