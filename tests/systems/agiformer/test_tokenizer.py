"""Bytes in, the same bytes out, through every door that a tokenizer is opened by."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

import agentforge.systems.agiformer.auto
from agentforge.data.chat_template import encode_documents
from agentforge.data.tokenizer import load_tokenizer
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.tokenizer import AgiformerTokenizer

TEXTS = ["plain", "naïve “quotes” 漢字 🙂", "  spaces \n\n\ttabs\r\n", "a <|end|> b", "\x00\x7f\u00a0\ufeff", "e\u0301"]


@pytest.fixture(params=["made", "reopened", "house"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> AgiformerTokenizer:
    made = AgiformerTokenizer()
    if request.param == "made":
        return made
    AgiformerConfig(hidden_size=32, num_attention_heads=2).save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path) if request.param == "reopened" else load_tokenizer(tmp_path)


@pytest.mark.parametrize("text", TEXTS)
def test_a_document_is_its_bytes_between_begin_and_end(tokenizer: AgiformerTokenizer, text: str) -> None:
    row = encode_documents(tokenizer, [text])[0]
    assert row.input_ids == [257, *text.encode(), 258] and row.assistant_masks == [1] * len(row.input_ids)
    assert tokenizer.decode(row.input_ids, skip_special_tokens=True) == text


def test_a_text_begins_with_the_begin_token_so_that_its_first_byte_is_predicted(tokenizer: AgiformerTokenizer) -> None:
    assert tokenizer("ab")["input_ids"] == [257, 97, 98]
    assert tokenizer("ab", add_special_tokens=False)["input_ids"] == [97, 98]


def test_broken_bytes_are_decoded_with_replacement_characters(tokenizer: AgiformerTokenizer) -> None:
    assert tokenizer.decode([0xF0, 0x9F, 0x99, 97]) == "\ufffda"


def test_special_tokens_stand_for_no_bytes(tokenizer: AgiformerTokenizer) -> None:
    assert tokenizer.count_bytes([257, 97, 255, 258, 256]) == 2


def test_rows_are_padded_before_their_text(tokenizer: AgiformerTokenizer) -> None:
    made = tokenizer(["a", "abc"], padding=True)
    assert made["input_ids"] == [[256, 256, 257, 97], [257, 97, 98, 99]]


assert agentforge.systems.agiformer.auto


def test_special_tokens_that_a_model_writes_are_shown_or_skipped() -> None:
    tokenizer = AgiformerTokenizer()
    ids = [tokenizer.bos_token_id, *"é".encode(), tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == "<|begin|>é<|end|>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "é"
