"""Bits per byte: of a model that knows nothing, of one that knows the text, and of compressors on the same bytes."""

from __future__ import annotations

import bz2
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agentforge.data.sources.raw_bytes import read_bytes
from agentforge.data.tokenizer import train_tokenizer
from agentforge.errors import UserError
from agentforge.evaluation.bits.compressors import COMPRESSORS, compressed_bits
from agentforge.evaluation.bits.evaluate_bits import Tokens, bits_figure, tokens_of
from agentforge.evaluation.bits.sliding import token_losses
from agentforge.recipe.schema import Data, Source
from agentforge.systems.agiformer.tokenizer import AgiformerTokenizer

TEXT = "Über naïve cafés – “quoted” 漢字 🙂.\n".encode() * 50


class Constant:
    """Says the same of every position."""

    device = torch.device("cpu")
    config = SimpleNamespace(vocab_size=259)

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def __call__(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1).clone())


def measured(logits: torch.Tensor, text: bytes) -> float:
    tokenizer = AgiformerTokenizer()
    tokens = tokens_of(text, tokenizer)
    losses = token_losses(
        Constant(logits),
        tokens.ids,
        context=64,
        stride=32,
        begin=tokenizer.bos_token_id,
        impossible=tokenizer.all_special_ids,
        batch=4,
    )
    figure = bits_figure(losses, tokens, 0.8)
    assert figure.n == len(text)
    return figure.value


def test_a_uniform_model_has_exactly_eight_bits() -> None:
    assert measured(torch.zeros(259), TEXT) == pytest.approx(8.0, abs=1e-6)


def test_a_model_that_expects_special_tokens_is_not_punished_for_them() -> None:
    logits = torch.zeros(259)
    logits[256:] = 20.0
    assert measured(logits, TEXT) == pytest.approx(8.0, abs=1e-5)


def test_the_bits_are_the_entropy_of_a_known_distribution() -> None:
    text = b"aab" * 400
    logits = torch.full((259,), -30.0)
    logits[ord("a")], logits[ord("b")] = math.log(2 / 3), math.log(1 / 3)
    wanted = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert measured(logits, text) == pytest.approx(wanted, abs=1e-4)


def test_nats_are_not_taken_for_bits() -> None:
    ends = np.arange(1, 10_001)
    figure = bits_figure(np.full(10_000, math.log(2)), Tokens([0] * 10_000, ends), 0.8)
    assert (figure.value, figure.n) == (pytest.approx(1.0), 10_000)


def test_a_short_text_has_an_interval_too_and_a_single_byte_is_refused() -> None:
    losses = np.random.default_rng(0).uniform(0, 8, 100)
    figure = bits_figure(losses, Tokens([0] * 100, np.arange(1, 101)), 0.8)
    assert 0 < figure.low < figure.value < figure.high < 20
    with pytest.raises(UserError, match="more text than 1 bytes"):
        bits_figure(np.ones(1), Tokens([0], np.array([1])), 0.8)


def test_tokens_of_several_bytes_are_counted_by_their_bytes() -> None:
    tokenizer = train_tokenizer([TEXT.decode()] * 20, 400)
    tokens = tokens_of(TEXT, tokenizer)
    assert len(tokens.ids) < len(TEXT) and tokens.ends[-1] == len(TEXT)
    figure = bits_figure(np.full(len(tokens.ids), math.log(2)), tokens, 0.8)
    assert figure.value == pytest.approx(len(tokens.ids) / len(TEXT))


def test_a_tokenizer_that_changes_the_text_is_refused() -> None:
    tokenizer = train_tokenizer([TEXT.decode()], 400)  # it composes characters (NFC)
    with pytest.raises(UserError, match="the tokenizer changes the text"):
        tokens_of("e\u0301".encode() * 9, tokenizer)


def test_bytes_that_are_not_utf8_are_for_models_of_bytes() -> None:
    broken = b"\xff\xfeabc\x80"
    assert bytes(tokens_of(broken, AgiformerTokenizer()).ids) == broken
    with pytest.raises(UserError, match="not UTF-8"):
        tokens_of(broken, train_tokenizer([TEXT.decode()], 400))


def test_compressors_are_measured_alone_and_behind_the_training_text() -> None:
    found = compressed_bits(TEXT, TEXT)
    assert found["bzip2 -9"]["alone"] == 8 * len(bz2.compress(TEXT, 9)) / len(TEXT)
    assert set(found) == {compressor.name for compressor in COMPRESSORS if compressor.installed}
    assert all(0 <= bits["after_training"] < bits["alone"] < 8 for bits in found.values())


def test_a_part_of_a_text_is_its_bytes(tmp_path: Any) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT)
    parts = [read_bytes(Source(dataset=str(path), part=part), Data()) for part in ([0, 0.9], [0.9, 0.95], [0.95, 1])]
    assert b"".join(parts) == TEXT and len(parts[0]) == round(0.9 * len(TEXT))
