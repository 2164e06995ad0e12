"""Agreement figures against scipy, and the texts models are compared on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr, softmax
from transformers import PreTrainedTokenizerFast

from agentforge.errors import CheckRefused, UserError
from agentforge.export.agreement import agreement, comparison_place, comparison_rows, sweep_rows, tokenizer_texts
from agentforge.export.llama_cpp import converter_source
from agentforge.models.checkpoint_files import require_space
from agentforge.recipe.schema import Recipe
from tests.export.export_models import make_recipe

logits = arrays(np.float32, (4, 7), elements=st.floats(-20, 20, width=32))


@settings(max_examples=50, deadline=None)
@given(logits, logits)
def test_agreement_equals_scipy(left: np.ndarray, right: np.ndarray) -> None:
    found = agreement([left[:1], left[1:]], [right[:1], right[1:]])
    p, q = softmax(left.astype(np.float64), axis=-1), softmax(right.astype(np.float64), axis=-1)
    assert found.tokens == 4
    assert found.kl == pytest.approx(rel_entr(p, q).sum(-1).mean(), rel=1e-6, abs=1e-9)
    assert found.top1 == (left.argmax(-1) == right.argmax(-1)).mean()
    differences = np.abs(left - right).max(-1)
    assert found.max_difference == differences.max()
    assert found.usual_difference == pytest.approx(np.quantile(differences, 0.9))
    assert found.spread == pytest.approx(left.astype(np.float64).std(-1).mean(), abs=1e-9)


def test_a_model_agrees_with_itself() -> None:
    rows = [np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)]
    found = agreement(rows, rows)
    assert (found.kl, found.top1, found.max_difference) == (0, 1, 0)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "their vocabularies differ"),
        (np.zeros((2, 3)), np.full((2, 3), np.nan), "NaN or infinite"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "no tokens"),
    ],
)
def test_what_cannot_be_compared(left: np.ndarray, right: np.ndarray, message: str) -> None:
    with pytest.raises(CheckRefused, match=message):
        agreement([left], [right])


def write_eval_rows(recipe: Recipe, rows: list[list[int]]) -> None:
    directory = recipe.artifact("data")
    directory.mkdir(parents=True)
    schema = pa.schema([("input_ids", pa.list_(pa.int32()))])
    with pa.ipc.new_stream(str(directory / "eval-00000.arrow"), schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(rows, pa.list_(pa.int32()))], schema=schema))


def test_held_out_rows_come_first(tmp_path: Path, base: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    recipe = make_recipe(tmp_path, base)
    built_in = comparison_rows(recipe, tokenizer)
    assert sum(map(len, built_in)) >= 256
    assert max(map(len, built_in)) <= 256
    write_eval_rows(recipe, [[7] * 300, [8] * 100, [9] * 400, [10] * 50])
    assert [len(row) for row in comparison_rows(recipe, tokenizer)] == [256, 100, 256]


def test_too_few_held_out_rows(tmp_path: Path, base: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    recipe = make_recipe(tmp_path, base)
    built_in = comparison_rows(recipe, tokenizer)
    write_eval_rows(recipe, [[7] * 30])
    assert comparison_rows(recipe, tokenizer) == built_in


def test_every_added_token_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = tokenizer_texts(tokenizer)
    for token in tokenizer.added_tokens_decoder.values():
        assert str(token) in texts


def test_the_sweep_reads_every_token_of_a_small_vocabulary() -> None:
    rows = sweep_rows(601)
    assert sorted(token for row in rows for token in row) == list(range(601))
    assert max(map(len, rows)) <= 256
    assert rows == sweep_rows(601), "the checkpoint's logits are kept for the file's"
    large = [token for row in sweep_rows(151_936) for token in row]
    assert len(set(large)) == len(large)
    assert 1000 < len(large) < 2000
    assert max(large) > 100_000


def test_what_does_not_fit_is_said_before_it_is_begun(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there" / "yet", 1000, "a small thing")
    with pytest.raises(CheckRefused, match=r"a big thing needs 1000000000\.0 GB, .* has \d+\.\d GB free"):
        require_space(tmp_path / "not", 10**18, "a big thing")
    assert comparison_place(1000).dtype == torch.float32
    with pytest.raises(CheckRefused, match="use a larger machine"):
        comparison_place(10**15)


def test_without_the_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match="run `make gguf-setup` once"):
        converter_source()
