"""Which template a tokenizer gets, what is said where it is not the base's own, and what a template cannot write."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from agentforge.artifacts import read_manifest
from agentforge.data import chat_template as ct
from agentforge.data.dialects.compare import say_differences
from agentforge.data.prepare import prepare
from agentforge.data.tool_calls import parse_assistant, write_assistant
from agentforge.errors import UserError
from agentforge.recipe.data_section import Data
from agentforge.recipe.schema import Recipe
from tests.data.dialects.families import base_tokenizer
from tests.data.small_tokenizers import CONVERSATION, TOOLS, chatml_tokenizer

CALL = {"type": "function", "function": {"name": "bash", "arguments": {"command": "ls"}}}
PAIR = [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "One."}]


def fresh(name: str) -> PreTrainedTokenizerFast:
    return copy.deepcopy(base_tokenizer(name))


def test_auto_keeps_the_bases_own_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = fresh("Qwen3")
    own = tokenizer.chat_template
    assert ct.install_template(tokenizer) is None
    assert tokenizer.chat_template == own
    assert say_differences(None, tokenizer) == {}
    assert not caplog.records


def test_what_another_template_changes_is_said(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = fresh("Phi-4 (its markers)")
    own = ct.install_template(tokenizer, "chatml")
    with caplog.at_level(logging.WARNING):
        found = say_differences(own, tokenizer)
    assert "a question and its answer" in found
    assert "<|im_sep|>" in found["a question and its answer"]
    assert "not the base's own" in caplog.text


def test_a_family_and_a_file_are_choices(tmp_path: Path) -> None:
    tokenizer = fresh("Qwen2.5")
    ct.install_template(tokenizer, "qwen3")
    assert "<think>" in ct.render(tokenizer, PAIR)
    file = tmp_path / "mine.jinja"
    file.write_text(fresh("Phi-4 (its markers)").chat_template)
    ct.install_template(tokenizer, str(file))
    assert tokenizer.chat_template == file.read_text()


def test_options_are_written_into_the_template() -> None:
    tokenizer = fresh("Qwen3")
    plain = ct.render(tokenizer, PAIR[:1], add_generation_prompt=True)
    ct.install_template(tokenizer, "auto", {"enable_thinking": False})
    quiet = ct.render(tokenizer, PAIR[:1], add_generation_prompt=True)
    assert quiet == f"{plain}<think>\n\n</think>\n\n"
    with pytest.raises(UserError, match=r"data\.template_options: the template of data\.template=chatml"):
        ct.install_template(tokenizer, "chatml", {"enable_thinking": False})


@pytest.mark.parametrize(
    ("name", "says"), [("chatlm", "did you mean 'chatml'"), ("no/such.jinja", "no template file no/such.jinja")]
)
def test_a_wrong_name_is_refused_with_the_recipe(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Data(template=name)


def test_chatml_over_a_vocabulary_that_begins_texts() -> None:
    """As Hermes 3 has it: trained without the token, a server would add what the model never saw."""
    tokenizer = fresh("Llama 3.1")
    ct.install_template(tokenizer, "chatml")
    (row,) = ct.encode_rows_of(tokenizer, CONVERSATION, TOOLS)
    assert row.input_ids.count(tokenizer.bos_token_id) == 1
    assert row.input_ids[0] == tokenizer.bos_token_id
    written = tokenizer.apply_chat_template(PAIR, tokenize=False)
    assert written.count(tokenizer.bos_token) == 1, "servers that only render the template write it too"
    assert ct.kind_of(tokenizer) == "chatml"


def test_a_template_that_ends_no_turn_is_refused() -> None:
    tokenizer = chatml_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    with pytest.raises(UserError, match="ends an answer with no token"):
        ct.install_template(tokenizer)


def test_what_a_template_cannot_write_is_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fresh("Gemma 1 and 2").save_pretrained(tmp_path / "base")
    calls: list[dict[str, Any]] = [PAIR[0], {"role": "assistant", "tool_calls": [CALL]}]
    rows = [{"messages": PAIR}, {"messages": calls, "tools": TOOLS}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.model_validate(
        {
            "name": "Choice",
            "output_dir": str(tmp_path),
            "model": {"path": str(tmp_path / "base")},
            "data": {"mix": [{"dataset": str(tmp_path / "rows.jsonl")}], "eval_fraction": 0, "workers": 1},
        }
    )
    with caplog.at_level(logging.WARNING):
        made = prepare(recipe)
    (source,) = read_manifest(made)["metrics"]["sources"].values()
    assert source["rows_not_rendered: tools without place in the template"] == 1
    assert source["train_rows"] == 1
    assert "1 rows are left out (tools without place in the template)" in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Plain <tool_call> and </think>."},
        {"content": "Look.", "reasoning_content": "Hm.\n</think>", "tool_calls": [CALL, CALL]},
        {"content": "", "tool_calls": [CALL]},
    ],
)
def test_what_an_environment_is_told_is_read_as_it_was(message: dict[str, Any]) -> None:
    assert parse_assistant(write_assistant(message)).message() == {"role": "assistant", **message}


@pytest.mark.parametrize("name", ["Qwen2.5", "Qwen3", "Llama 3.1"])
def test_a_turn_that_is_not_to_be_trained_is_only_read(name: str) -> None:
    tokenizer = base_tokenizer(name)
    messages = [
        PAIR[0],
        PAIR[1] | {"train": False},
        {"role": "user", "content": "Sure?"},
        PAIR[1] | {"content": "Yes."},
    ]
    (row,) = ct.encode_rows_of(tokenizer, messages)
    said = tokenizer.decode([i for i, trained in zip(row.input_ids, row.assistant_masks, strict=True) if trained])
    assert "Yes." in said
    assert "One." not in said
