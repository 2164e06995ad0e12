"""Benchmark rows among what is trained on, in whatever shape, are found; what only resembles them is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentforge.errors import CheckRefused
from agentforge.evaluation.benchmarks.evaluate_benchmarks import load_tasks
from agentforge.evaluation.benchmarks.trained_rows import refuse_trained_benchmarks
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.schema import Benchmarks, Recipe

LONG = "A farmer has seventeen hens and sells four of them to a neighbour, who gives two back; how many are left?"
SHORT = "Which gas do plants take in?"


def check(directory: Path, mix: list[dict[str, Any]], **data: Any) -> None:
    rows = [{"question": text, "answer": "#### 1"} for text in (LONG, SHORT)]
    files = directory / "mirror" / "openai" / "gsm8k"
    files.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        (files / f"gsm8k_{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmarks = Benchmarks(tasks=["gsm8k"])
    recipe = Recipe.model_validate({"name": "A", "data": {"mix": mix, **data}, "evaluate": {"benchmarks": benchmarks}})
    loaded = load_tasks(benchmarks, str(directory / "mirror"))
    refuse_trained_benchmarks(recipe, loaded, ModelLocation("hf", str(directory / "none"), "base"))


def trained(directory: Path, *rows: Any) -> list[dict[str, Any]]:
    file = directory / "mine.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return [{"dataset": str(file)}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": f"Please solve: {LONG.upper()}"}]},
        {"text": f"Once upon a time. {LONG} Thirteen."},
        {"q": SHORT, "a": "carbon dioxide"},
    ],
)
def test_a_copy_is_refused_and_named(tmp_path: Path, row: dict[str, Any]) -> None:
    mix = trained(tmp_path, {"text": "something else"}, "broken {", row)
    with pytest.raises(CheckRefused, match=r"mine\.jsonl, line 3 is trained on and asked by the benchmark gsm8k"):
        check(tmp_path, mix)
    check(tmp_path, mix, decontaminate={"against": ["gsm8k:test"]})  # `prepare` has taken it out


def test_what_only_resembles_a_question_is_trained_on(tmp_path: Path) -> None:
    check(tmp_path, trained(tmp_path, {"text": "A farmer has seventeen hens and sells four."}, {"q": "Why?"}))


def test_the_same_split_of_the_same_set_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(CheckRefused, match="trains on gsm8k:test, which the benchmark gsm8k asks"):
        check(tmp_path, [{"dataset": "gsm8k", "split": "test", "enabled": True}])
    check(tmp_path, [{"dataset": "gsm8k"}])  # its training split
