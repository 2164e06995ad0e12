"""The tables of n-grams are trained row by row, as `torch.optim.SparseAdam` does it, beside Muon and AdamW."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from agentforge.systems.agiformer.modeling.causal_lm import AgiformerForCausalLM
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.training.row_optimizer import RowMuGrokfast, make_row_mugrokfast, tables_of

# SparseAdam adds it before the bias correction, AdamW and ours behind it: only where it is nothing they are the same.
EPSILON = 1e-14


def made(**options: Any) -> tuple[AgiformerForCausalLM, RowMuGrokfast]:
    torch.manual_seed(0)
    config = AgiformerConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        window_size=4,
        ngram_sizes=[2, 3],
        ngram_buckets=97,
        ngram_dropout=0.0,
    )
    model = AgiformerForCausalLM(config).train()
    args = TrainingArguments(
        output_dir="unused", learning_rate=1e-3, weight_decay=0.1, adam_epsilon=EPSILON, use_cpu=True, report_to="none"
    )
    return model, make_row_mugrokfast(model, args, **options)


def text(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(seed))


def step(model: AgiformerForCausalLM, optimizer: RowMuGrokfast, seed: int) -> None:
    model(text(seed), labels=text(seed)).loss.backward()
    optimizer.set_aside()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # would fail on a sparse gradient
    optimizer.step()
    optimizer.zero_grad()


def test_rows_move_as_sparse_adam_moves_them() -> None:
    model, optimizer = made(rows_learning_rate=5e-3)
    twin = copy.deepcopy(model)
    own = torch.optim.SparseAdam([table.weight for table in tables_of(twin)], lr=5e-3, betas=(0.9, 0.999), eps=EPSILON)
    for seed in range(4):
        # the rest of the twin is what ours is, so that both tables see the same gradients
        twin.load_state_dict(
            model.state_dict() | {name: value for name, value in twin.state_dict().items() if "ngrams" in name}
        )
        twin(text(seed), labels=text(seed)).loss.backward()
        own.step()
        twin.zero_grad()
        step(model, optimizer, seed)
    for ours, theirs in zip(tables_of(model), tables_of(twin), strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-6, rtol=1e-5)


def test_rows_without_a_gradient_stand_still() -> None:
    model, optimizer = made()
    before = [table.weight.detach().clone() for table in tables_of(model)]
    step(model, optimizer, 0)
    for table, old in zip(tables_of(model), before, strict=True):
        moved = (table.weight != old).any(1)
        assert 0 < moved.sum() <= 2 * 48 < len(moved)  # two sizes


def test_the_state_survives_a_checkpoint() -> None:
    model, optimizer = made()
    step(model, optimizer, 0)
    again, other = made()
    again.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((model, optimizer), (again, other)):
        step(one, its, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_rate_of_zero_moves_nothing() -> None:
    model, optimizer = made(rows_learning_rate=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [weight.detach().clone() for weight in model.parameters()]
    step(model, optimizer, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_a_dense_gradient_of_a_table_is_a_mistake() -> None:
    model, optimizer = made()
    for table in tables_of(model):
        table.sparse = False
    model(text(0), labels=text(0)).loss.backward()
    with pytest.raises(ValueError, match="dense gradient"):
        optimizer.step()
