"""Training, loading, and the check that what is loaded is what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2 import tokenization_qwen2

from agentforge.data.tokenizer import BATTERY, QWEN2_PATTERN, load_tokenizer, train_tokenizer
from agentforge.errors import CheckRefused, UserError

TEXTS = ["the quick brown fox jumps over the lazy dog", "def function(argument):\n    return argument", *BATTERY] * 4


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 400)


def test_layout_is_that_of_qwen2(tokenizer: PreTrainedTokenizerFast) -> None:
    assert QWEN2_PATTERN == tokenization_qwen2.PRETOKENIZE_REGEX
    assert len(tokenizer) == 400
    added = sorted(tokenizer.added_tokens_decoder)
    assert added == list(range(391, 400)), "the added tokens come after the learnt ones"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_decoding_keeps_the_tags_and_drops_the_control_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("<|im_start|><tool_call>x</tool_call><think></think><|im_end|>", add_special_tokens=False)
    assert len(ids) == 7
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>x</tool_call><think></think>"


@given(text=st.text())
@settings(max_examples=200)
def test_bytes_come_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    import unicodedata

    decoded = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), clean_up_tokenization_spaces=False)
    assert decoded == unicodedata.normalize("NFC", text)


def test_training_is_deterministic(tokenizer: PreTrainedTokenizerFast) -> None:
    again = train_tokenizer(iter(TEXTS), 400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_vocabulary_smaller_than_the_bytes_is_refused() -> None:
    with pytest.raises(UserError, match="265"):
        train_tokenizer(TEXTS, 264)


def test_loading_gives_what_was_saved(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert [loaded.encode(text) for text in BATTERY] == [tokenizer.encode(text) for text in BATTERY]
    assert loaded.eos_token == "<|im_end|>"
    assert loaded.added_tokens_decoder == tokenizer.added_tokens_decoder


def test_a_class_that_overrides_the_file_is_caught(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """transformers #45488: the class rebuilds the pre-tokenizer and ignores tokenizer.json."""
    altered = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    altered.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.save_pretrained(tmp_path)
    altered.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "Qwen2Tokenizer"}))
    with pytest.raises(CheckRefused, match=r"differently than its tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_missing_tokenizer_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer could be loaded") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_directory_that_a_stage_has_not_made_yet_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="base-model: there is no such directory; run the stage that makes it"):
        load_tokenizer(tmp_path / "base-model")
