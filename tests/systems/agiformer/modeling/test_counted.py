"""Counted n-grams: against a slow reference, and that no row is predicted by counts that it is part of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.modeling.counted import CountedNgrams, row_keys
from agentforge.systems.agiformer.modeling.ngrams import ngram_keys

SIZES = [1, 2, 4]
FOLDS = 3


def some_rows(seed: int = 0) -> list[list[int]]:
    made = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 90, (40,), generator=made).tolist()
    return [torch.randint(97, 101, (length,), generator=made).tolist() for length in lengths]


def make(rows: list[list[int]]) -> AgiformerForCausalLM:
    torch.manual_seed(0)
    model = AgiformerForCausalLM(
        AgiformerConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            counted_sizes=SIZES,
            counted_folds=FOLDS,
            initializer_range=0.3,
        )
    )
    model.count(rows)
    return model


def folds_of(rows: list[list[int]]) -> list[int]:
    total, before, folds = sum(map(len, rows)), 0, []
    for row in rows:
        folds.append(before * FOLDS // total)
        before += len(row)
    return folds


def reference(rows: list[list[int]], context: list[int], discounts: list[float], vocabulary: int) -> list[list[float]]:
    """Return the distribution after a context, of each size, from counts kept in dictionaries."""
    made, shorter = [], [1 / vocabulary] * vocabulary
    for size, discount in zip(SIZES, discounts, strict=True):
        padded = [[vocabulary] * size + row for row in rows]
        asked = ([vocabulary] * size + context)[-size:]
        counts = Counter(
            row[place] for row in padded for place in range(size + 1, len(row)) if row[place - size : place] == asked
        )
        if total := counts.total():
            passed = discount * len(counts) / total
            shorter = [max(counts[b] - discount, 0) / total + passed * shorter[b] for b in range(vocabulary)]
        made.append(shorter)
    return made


def of_text(model: CountedNgrams, ids: Tensor) -> Tensor:
    before = torch.full((1, SIZES[-1] - 1), model.config.vocab_size)
    keys = ngram_keys(torch.cat([before, ids], dim=1), SIZES)[0]
    left_out = model.left_out(row_keys(ids, torch.tensor([ids.shape[1]])))
    return model.distributions(keys, left_out.expand(len(keys)))[0].exp()


@pytest.mark.parametrize("counted", [True, False])
def test_the_distributions_are_those_of_a_slow_count(counted: bool) -> None:
    rows = some_rows()
    model = make(rows)
    assert model.counted is not None
    number = next(i for i, row in enumerate(rows) if len(row) > 20)
    row = rows[number] if counted else some_rows(1)[3]
    folds = folds_of(rows)
    read = [one for one, fold in zip(rows, folds, strict=True) if not counted or fold != folds[number]]
    found = of_text(model.counted, torch.tensor([row]))
    assert torch.allclose(found.sum(-1), torch.ones(found.shape[:2]), atol=1e-5)
    for place in (0, 1, 3, len(row) - 1):
        wanted = reference(read, row[: place + 1], model.counted.discounts.tolist(), model.config.vocab_size)
        assert torch.allclose(found[place], torch.tensor(wanted), atol=1e-6)


def test_a_row_that_stands_in_two_folds_sees_neither() -> None:
    rows = some_rows()
    rows = [*rows, rows[0]]
    folds = folds_of(rows)
    assert folds[0] != folds[-1]
    model = make(rows).counted
    assert model is not None
    ids = torch.tensor([rows[0]])
    left_out = model.left_out(row_keys(ids, torch.tensor([len(rows[0])])))
    assert left_out.tolist() == [1 << folds[0] | 1 << folds[-1]]


def test_only_training_leaves_a_fold_out() -> None:
    rows = some_rows()
    model = make(rows)
    row = max(rows, key=len)
    ids, other = torch.tensor([row]), torch.tensor([[100, 100, *row]])
    with torch.no_grad():
        differs = [float((model.train()(one).logits - model.eval()(one).logits).abs().max()) for one in (ids, other)]
        # as in a batch: padded on either side, packed behind another
        padded = torch.tensor([[0, 0, *row], [*row, 0, 0]])
        mask = torch.tensor([[0, 0] + [1] * len(row), [1] * len(row) + [0, 0]])
        alone, found = model.train()(ids).logits[0], model(padded, attention_mask=mask).logits
        positions = torch.tensor([[*range(5), *range(len(row))]])
        packed = model(torch.tensor([[97] * 5 + row]), position_ids=positions).logits[0, 5:]
    assert differs[0] > 1e-2
    assert differs[1] == 0, "its beginning is no counted row's"
    for logits in (found[0, 2:], found[1, :-2], packed):
        assert torch.allclose(logits, alone, atol=1e-4)


def test_counts_are_saved_with_the_weights(tmp_path: Path) -> None:
    model = make(some_rows()).eval()
    model.save_pretrained(tmp_path)
    opened = AgiformerForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([some_rows()[3]])
    assert opened.config.counted == model.config.counted and opened.config.counted[0] > 0
    assert torch.equal(opened(ids).logits, model(ids).logits)
    before = opened.counted.counts.clone()
    opened.count(some_rows(5))
    assert torch.equal(opened.counted.counts, before), "a model that has counted goes on with its counts"


def test_counts_give_no_gradient_and_the_mixer_gets_one() -> None:
    rows = some_rows()
    model = make(rows).train()
    ids = torch.tensor([max(rows, key=len)])
    model(ids, labels=ids).loss.backward()
    assert model.counted is not None
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.counted.parameters())
