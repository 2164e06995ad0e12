"""Preferences of files: every layout that people have becomes the same pair, and what is lost is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from agentforge.artifacts import read_manifest
from agentforge.cli import app
from agentforge.data.chat_template import encode_prompt, install_template
from agentforge.data.preference_rows import preference_rows
from agentforge.data.sources.adapters import Rejected, SourceOptions, detect_adapter, get_adapter
from agentforge.data.sources.adapters.preferences import read_labelled, read_pair
from agentforge.data.sources.open_sources import open_sources
from agentforge.errors import CheckRefused, UserError
from agentforge.recipe.loading import resolved_yaml
from agentforge.recipe.schema import Data, Recipe
from agentforge.trainers.train import train
from tests.data.small_tokenizers import chatml_tokenizer
from tests.trainers.conftest import MakeRecipe

ASK, GOOD, BAD = "Which way?", "To the left.", "No idea."
USER = {"role": "user", "content": ASK}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PAIRS: dict[str, dict[str, Any]] = {
    "texts behind a prompt": {"prompt": ASK, "chosen": GOOD, "rejected": BAD},
    "turns behind turns": {"prompt": [USER], "chosen": [said(GOOD)], "rejected": [said(BAD)]},
    "whole conversations": {"chosen": [USER, said(GOOD)], "rejected": [USER, said(BAD)]},
    "a prompt that the turns repeat": {"prompt": ASK, "chosen": [USER, said(GOOD)], "rejected": [USER, said(BAD)]},
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": ASK}],
        "chosen": {"from": "gpt", "value": GOOD},
        "rejected": {"from": "gpt", "value": BAD},
    },
    "alpaca": {"instruction": ASK, "input": "", "chosen": GOOD, "rejected": BAD},
    "ms-swift": {"messages": [USER, said(GOOD)], "rejected_response": BAD},
    "ms-swift, whole": {"messages": [USER, said(GOOD)], "rejected_messages": [USER, said(BAD)]},
    "transcripts": {
        "chosen": f"\n\nHuman: {ASK}\n\nAssistant: {GOOD}",
        "rejected": f"\n\nHuman: {ASK}\n\nAssistant: {BAD}",
    },
    "turns as text": {"prompt": ASK, "chosen": json.dumps([said(GOOD)]), "rejected": str([said(BAD)])},
}
LABELLED: dict[str, dict[str, Any]] = {
    "texts": {"prompt": ASK, "completion": GOOD, "label": True},
    "turns": {"prompt": [USER], "completion": [said(GOOD)], "label": True},
    "of a table": {"prompt": ASK, "completion": GOOD, "label": "True"},
    "messages": {"messages": [USER, said(GOOD)], "label": True},
    "LLaMA-Factory": {"instruction": ASK, "output": GOOD, "kto_tag": True},
}


@pytest.mark.parametrize("raw", PAIRS.values(), ids=PAIRS)
def test_every_layout_gives_the_same_pair(raw: dict[str, Any]) -> None:
    assert detect_adapter(raw) == "preference"
    pair = read_pair(raw, SourceOptions())
    assert not isinstance(pair, Rejected)
    assert (pair.chosen, pair.rejected) == ([USER, said(GOOD)], [USER, said(BAD)])
    assert not pair.left_out
    chosen = get_adapter("preference")(raw, SourceOptions())
    assert chosen == {"messages": [USER, said(GOOD)], "left_out": {"rejected": 1}}


@pytest.mark.parametrize("raw", LABELLED.values(), ids=LABELLED)
def test_every_layout_gives_the_same_labelled_answer(raw: dict[str, Any]) -> None:
    assert detect_adapter(raw) == "kto"
    labelled = read_labelled(raw, SourceOptions())
    assert not isinstance(labelled, Rejected)
    assert labelled.messages == [USER, said(GOOD)] and labelled.liked
    key = "label" if "label" in raw else "kto_tag"
    assert read_labelled(raw | {key: False}, SourceOptions()).liked is False  # type: ignore[union-attr]
    assert read_labelled(raw | {key: "4"}, SourceOptions()) == Rejected("label is neither true nor false")
    assert get_adapter("kto")(raw | {key: False}, SourceOptions()) == Rejected("an answer that was not liked")


def test_a_class_is_no_preference() -> None:
    assert detect_adapter({"messages": [USER, said(GOOD)], "label": "sports"}) == "messages"


def test_system_history_and_later_turns_are_kept_or_counted() -> None:
    later = [USER, said(GOOD), {"role": "user", "content": "Thanks"}, said("You are welcome.")]
    raw = {"system": "Be kind.", "chosen": later, "rejected": [USER, said(BAD)], "source": "x"}
    pair = read_pair(raw, SourceOptions())
    assert not isinstance(pair, Rejected)
    assert pair.chosen == [{"role": "system", "content": "Be kind."}, USER, said(GOOD)]
    assert pair.left_out == {"turns after the first answer that differs": 2}
    same = {"prompt": ASK, "chosen": GOOD, "rejected": GOOD}
    assert read_pair(same, SourceOptions()) == Rejected("chosen and rejected are the same")
    other = {"chosen": [USER, said(GOOD)], "rejected": [{"role": "user", "content": "Why?"}, said(BAD)]}
    assert read_pair(other, SourceOptions()) == Rejected("chosen and rejected answer different questions")
    with_history = {"prompt": ASK, "history": [["Hi", "Hello"]], "chosen": GOOD, "rejected": BAD}
    told = read_pair(with_history, SourceOptions())
    assert not isinstance(told, Rejected) and [m["content"] for m in told.chosen] == ["Hi", "Hello", ASK, GOOD]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def to_file(*rows: dict[str, Any]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return to_file


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = chatml_tokenizer()
    install_template(tokenizer)
    return tokenizer


def test_tokens_of_a_pair_and_of_a_label(tokenizer: PreTrainedTokenizerFast, write: Callable[..., str]) -> None:
    sources, _ = open_sources(Data.model_validate({"mix": [{"dataset": write(*PAIRS.values())}]}))
    rows, [tally] = preference_rows(sources, "dpo", tokenizer, 256, 0.0)
    assert len(rows) == len(PAIRS) and all(row == rows[0] for row in rows) and not tally.rejected
    assert rows[0]["prompt_ids"] == encode_prompt(tokenizer, [USER])
    assert tokenizer.decode(rows[0]["chosen_ids"]) == f"{GOOD}<|im_end|>"
    assert tokenizer.decode(rows[0]["rejected_ids"]) == f"{BAD}<|im_end|>"
    sources, _ = open_sources(Data.model_validate({"mix": [{"dataset": write(*LABELLED.values())}]}))
    rows, _ = preference_rows(sources, "kto", tokenizer, 256, 0.0)
    assert rows[0]["completion_masks"] == [1] * len(rows[0]["completion_ids"]) and rows[0]["label"]


def test_what_is_left_out_has_its_reason_and_line(
    tokenizer: PreTrainedTokenizerFast, write: Callable[..., str]
) -> None:
    good = PAIRS["texts behind a prompt"]
    path = write(good, good | {"chosen": ""}, good | {"chosen": "word " * 400, "score": 3}, good | {"score": 1})
    sources, _ = open_sources(Data.model_validate({"mix": [{"dataset": path}]}))
    rows, [tally] = preference_rows(sources, "dpo", tokenizer, 64, 0.0)
    assert len(rows) == 2 and tally.left_out == {"score": 1}
    assert tally.first_lines(sources[0].files) == {
        "empty answer": "rows.jsonl:2",
        "longer than data.max_length": "rows.jsonl:3",
    }
    with pytest.raises(UserError, match="are read as preference, but kto needs a label"):
        preference_rows(sources, "kto", tokenizer, 64, 0.0)
    with pytest.raises(CheckRefused, match=r"none of 4 rows can be trained on \(longer than data.max_length: 3"):
        preference_rows(sources, "dpo", tokenizer, 12, 0.0)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_training_on_a_file(make_toy: MakeRecipe, write: Callable[..., str], method: str) -> None:
    rows = list(PAIRS.values()) if method == "dpo" else [*LABELLED.values(), LABELLED["texts"] | {"label": False}]
    recipe = make_toy(method, train={"preferences": [{"dataset": write(*rows)}], "args": {"max_steps": 2}})
    made = train(recipe)
    counts = read_manifest(made)["metrics"]["sources"]
    assert next(iter(counts.values()))["rows_read"] == len(rows)


def test_prepare_looks_at_the_files(make_toy: MakeRecipe, write: Callable[..., str], tmp_path: Path) -> None:
    recipe = make_toy("dpo", train={"preferences": [{"dataset": write(*PAIRS.values())}]})
    (tmp_path / "p.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    result = CliRunner().invoke(app, ["prepare", str(tmp_path / "p.yaml")])
    assert result.exception is None and "rows can be trained on" in result.stdout
    assert not recipe.artifact("data").exists()
    alike = make_toy("kto", train={"preferences": [{"dataset": write(*LABELLED.values())}]})
    (tmp_path / "k.yaml").write_text(resolved_yaml(alike), encoding="utf-8")
    result = CliRunner().invoke(app, ["prepare", str(tmp_path / "k.yaml")])
    assert isinstance(result.exception, CheckRefused) and "the same label" in str(result.exception)


def test_preferences_are_refused_where_nobody_reads_them() -> None:
    for section, problem in (
        ({"method": "sft"}, "read by dpo and kto, not by sft"),
        ({"method": "dpo", "episodes": ["x"]}, "both set"),
    ):
        with pytest.raises(ValidationError, match=problem):
            Recipe.model_validate({"name": "x", "train": section | {"preferences": [{"dataset": "a.jsonl"}]}})
