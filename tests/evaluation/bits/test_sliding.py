"""Each token of a text is scored once, with as much context as was asked for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from agentforge.evaluation.bits.sliding import token_losses, windows


class Bigram:
    """Predicts from the token before, and remembers how much it was given."""

    device = torch.device("cpu")
    config = SimpleNamespace(vocab_size=10)

    def __init__(self) -> None:
        self.table = torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
        self.read: list[tuple[int, ...]] = []

    def __call__(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        self.read.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=self.table[input_ids])


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 30])
@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 8), (8, 1), (2, 1), (5, 99)])
def test_every_token_is_scored_once_behind_enough_context(length: int, context: int, stride: int) -> None:
    scored: list[int] = []
    for window in windows(length, context, stride):
        assert 0 <= window.start <= window.scored < window.stop <= length and window.stop - window.start <= context
        assert window.start == 0 or window.scored > window.start
        scored += range(window.scored, window.stop)
    assert scored == list(range(length))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("begin", [None, 9])
def test_losses_are_those_of_the_tokens(begin: int | None, batch: int) -> None:
    ids = np.random.default_rng(0).integers(0, 9, 31).tolist()
    model = Bigram()
    found = token_losses(model, ids, context=8, stride=5, begin=begin, impossible=[9], batch=batch)
    table = model.table.clone()
    table[:, 9] = -torch.inf
    log = table.log_softmax(-1).double().numpy()
    before = [begin, *ids[:-1]]
    wanted = [np.nan if b is None else -log[b, token] for b, token in zip(before, ids, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert max(columns for _, columns in model.read) <= 8 and max(rows for rows, _ in model.read) <= batch
