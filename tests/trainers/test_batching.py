"""Labels, packing, and the proof that packed documents do not see each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from agentforge.errors import CheckRefused, UserError
from agentforge.models.build import from_scratch
from agentforge.recipe.schema import Model
from agentforge.trainers.batching import IGNORED, PackedRows, choose_packing, make_collator, packing_fill, training_rows
from tests.trainers.tiny import TINY, VOCABULARY, make_rows


def prepared(rows: list[dict[str, Any]], tmp_path: Path, name: str = "rows", **options: Any) -> Dataset:
    defaults: dict[str, Any] = {"max_length": 32, "packing": True, "masked": True}
    return training_rows(Dataset.from_list(rows), **(defaults | options), cache=tmp_path / name)


def test_only_masked_tokens_are_trained(tmp_path: Path) -> None:
    rows = make_rows(20, 0)
    labelled = prepared(rows, tmp_path, packing=False)
    for row, found in zip(rows, labelled, strict=True):
        assert found["input_ids"] == row["input_ids"]
        expected = [i if m else IGNORED for i, m in zip(row["input_ids"], row["assistant_masks"], strict=True)]
        assert found["labels"] == expected
    everything = prepared(rows, tmp_path, "all", packing=False, masked=False)
    assert everything["labels"] == everything["input_ids"]


def test_a_row_that_is_too_long_is_refused_not_cut(tmp_path: Path) -> None:
    with pytest.raises(CheckRefused, match="has 33 tokens"):
        prepared([{"input_ids": [1] * 33, "assistant_masks": [1] * 33}], tmp_path)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(2, 32), min_size=1, max_size=60), seed=st.integers(0, 999))
def test_packing_loses_no_row_and_overfills_none(
    lengths: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [{"input_ids": [n + 2] * length, "assistant_masks": [1] * length} for n, length in enumerate(lengths)]
    packed = prepared(rows, tmp_path_factory.mktemp("packed"))
    found = []
    for row in packed:
        assert sum(row["seq_lengths"]) == len(row["input_ids"]) <= 32
        start = 0
        for length in row["seq_lengths"]:
            found.append(row["input_ids"][start : start + length])
            start += length
    assert sorted(found) == sorted(row["input_ids"] for row in rows)


def test_many_rows_fill_the_packs(tmp_path: Path) -> None:
    assert packing_fill(prepared(make_rows(3000, 3, longest=24), tmp_path), 32) > 0.99


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_packed_and_separate_documents_have_the_same_loss_per_token(tmp_path: Path, attention: str, kind: str) -> None:
    """A model that saw another document, another position or a padded token would differ by far more than rounding."""
    config = {"max_position_embeddings": 64, **TINY, "model_type": kind}
    model = from_scratch(Model(config=config, attn_implementation=attention), VOCABULARY, seed=0).eval()
    rows = make_rows(12, 5, longest=14)
    packed = prepared(rows, tmp_path)
    assert len(packed) < len(rows)
    batch = make_collator(model, 0, packing=True)([packed[i] for i in range(len(packed))])
    labels, compared = batch.pop("labels"), 0
    with torch.no_grad():
        together = token_losses(model(**batch, use_cache=False).logits, labels)
        for number in range(len(packed)):
            row, start = packed[number], 0
            for length in row["seq_lengths"]:
                ids = torch.tensor([row["input_ids"][start : start + length]])
                assert ids[0].tolist() in [made["input_ids"] for made in rows]
                alone = token_losses(
                    model(ids, use_cache=False).logits, labels[number : number + 1, start : start + length]
                )
                torch.testing.assert_close(together[number, start : start + length - 1], alone[0], atol=1e-5, rtol=0)
                compared += int((alone > 0).sum())
                start += length
    assert compared == sum(sum(made["assistant_masks"]) for made in rows)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    )


def test_the_first_token_of_a_document_is_not_learned_from_the_last_one() -> None:
    row = {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "seq_lengths": [3, 2]}
    batch = PackedRows(0)([row])
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert "attention_mask" not in batch


def test_packing_is_off_for_a_state_space_model_and_refused_if_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    config = {
        "model_type": "mamba2",
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 8,
    }
    model = from_scratch(Model(config=config | {"n_groups": 1}), VOCABULARY, seed=0)
    assert choose_packing(model, None) is False
    with pytest.raises(UserError, match="packed end to end change each other"):
        choose_packing(model, True)
    assert "attention_mask" in make_collator(model, 0, packing=False)([{"input_ids": [1, 2], "labels": [1, 2]}])


def test_a_model_that_packing_does_not_pay_for_is_packed_only_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_scratch(Model(config=TINY), VOCABULARY, seed=0)
    assert choose_packing(model, None)
    monkeypatch.setattr(type(model), "unpacked_by_default", "too dear", raising=False)
    assert not choose_packing(model, None)
    assert choose_packing(model, True)
