"""Held-out rows as prompts: where they are cut, and which are taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentforge.errors import CheckRefused
from agentforge.evaluation.answers import Prompt, _check_tokenizer, prompts_of, read_answers
from agentforge.evaluation.compare.side_by_side import EXCERPT, answers_table, shown_text
from agentforge.evaluation.scores_file import SCORES
from tests.data.small_tokenizers import chatml_tokenizer


def row(ids: list[int], mask: list[int]) -> dict[str, Any]:
    return {"input_ids": ids, "assistant_masks": mask, "source": "rows"}


def test_a_prompt_ends_where_the_first_trained_turn_begins() -> None:
    two_turns = row([5, 6, 7, 8, 9, 10], [0, 0, 1, 1, 0, 1])
    assert prompts_of([two_turns], 5, longest=9) == [Prompt("rows", [5, 6], [7, 8])]
    assert prompts_of([two_turns], 5, longest=1) == [Prompt("rows", [5, 6], [7])]


@pytest.mark.parametrize(("length", "begin_token", "prompt"), [(100, 0, 32), (100, 1, 32), (5, 0, 3), (1, 0, 1)])
def test_the_beginning_of_a_document_is_its_prompt(length: int, begin_token: int, prompt: int) -> None:
    document = row(list(range(length)), [0] * begin_token + [1] * (length - begin_token))
    (got,) = prompts_of([document], 1, longest=1000)
    assert got.prompt_ids == list(range(prompt)) and got.prompt_ids + got.expected_ids == list(range(length))


def test_rows_are_spread_over_all() -> None:
    rows = [row([index, 0], [0, 1]) for index in range(10)]
    assert [got.prompt_ids[0] for got in prompts_of(rows, 3, 1)] == [0, 3, 6]
    assert len(prompts_of(rows, 99, 1)) == 10


def write_evaluation(directory: Path, label: str, digest: str, answer: str) -> Path:
    directory.mkdir()
    report = {"model": {"label": label}, "answers": {"n": 1, "hash": digest}}
    (directory / SCORES).write_text(json.dumps(report), encoding="utf-8")
    line = {"prompt": "Why?", "expected": "So.", "answer": answer}
    (directory / "answers.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return directory


def test_only_answers_to_the_same_rows_stand_together(tmp_path: Path) -> None:
    one, two = (
        write_evaluation(tmp_path / "1", "base", "x", "..."),
        write_evaluation(tmp_path / "2", "lora", "x", "So!"),
    )
    other = write_evaluation(tmp_path / "3", "q8", "y", "No.")
    together, alone = read_answers([one, two, other])
    assert (together.labels, together.rows) == (["base", "lora"], [("Why?", "So.", ["...", "So!"])])
    assert alone.labels == ["q8"]
    assert answers_table(together).row_count == 4


def test_what_a_model_wrote_does_not_act_on_the_terminal() -> None:
    assert shown_text("\x1b[31mred") == "␛[31mred"
    assert shown_text("a" * 999).endswith("a ...") and shown_text("ab" * 999, from_end=True).startswith("... ")
    assert len(shown_text("a" * 999)) == EXCERPT + 4


def test_a_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizer = chatml_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    ids = tokenizer("Which way?")["input_ids"]

    class Other:
        label = "other"

        @staticmethod
        def decode(token_ids: list[int]) -> str:
            return "something else"

    with pytest.raises(CheckRefused, match="prepared with another tokenizer than that of other"):
        _check_tokenizer(Other(), [Prompt("rows", ids, [])], tmp_path)  # type: ignore[arg-type]
