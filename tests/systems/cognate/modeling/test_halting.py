"""Tokens that have thought enough are frozen: what that means, against a slow pass, and the work that is not done."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.losses.halting import exit_steps
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.modeling.run import Run
from agentforge.systems.cognate.modeling.work import counted_work
from tests.systems.cognate.tiny import some_ids, tiny_cognate

THRESHOLDS = (0.0, 0.4, 0.6, 0.8, 1.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "trm": {},
    "plain": {"recursion": "plain"},
    "no memory": {"memory_layers": []},
    "momentum": {"memory_momentum": True},
}


def slowly(model: CognateForCausalLM, ids: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return answers `(B, T, D)` and steps `(B, T)`, one layer at a time over all tokens.

    In each iteration, a layer reads of a halted token what it read of it in the iteration before.
    """
    config, inner = model.config, model.model
    x = torch.nn.functional.rms_norm(inner.embed_tokens(ids), (config.hidden_size,), eps=config.rms_norm_eps)
    context, _ = inner._context(x, None, None, None)

    def norm(x: Tensor) -> Tensor:
        return torch.nn.functional.rms_norm(x, x.shape[-1:], eps=config.rms_norm_eps)

    for layer in inner.prelude:
        x = layer(x, inner.persistent, Run(context))[0]
    x = norm(x)
    states = [start.expand_as(x) for start in inner.initial]
    halted = torch.zeros_like(ids, dtype=torch.bool)
    steps, passed = torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.float)
    read: dict[tuple[int, int], Tensor] = {}

    def core(x: Tensor, call: int) -> Tensor:
        for index, layer in enumerate(inner.core):
            if (call, index) in read:
                x = torch.where(halted[..., None], read[call, index], x)
            read[call, index] = x
            x = layer(x, inner.persistent, Run(context))[0]
        return x

    answer = torch.zeros_like(x)
    for _ in range(config.max_recursions):
        if config.recursion == "plain":
            after = [core(norm(states[0] + x), 0)]
        else:
            z, y = states
            for call in range(config.micro_steps):
                z = core(norm(z + y + x), call)
            after = [z, core(norm(y + z), config.micro_steps)]
        states = [torch.where(halted[..., None], old, new) for old, new in zip(states, after, strict=True)]
        answer = inner.norm(states[-1])
        steps = steps + ~halted
        passed = torch.where(halted, passed, passed * (1 - torch.sigmoid(inner.halting_head(answer)[..., 0])))
        halted = halted | (1 - passed >= threshold)
    return answer, steps


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_halting_computes_what_the_slow_pass_says(variant: str, threshold: float) -> None:
    model, ids = tiny_cognate(**VARIANTS[variant], max_recursions=4), some_ids(3, 11)
    found = model.model.steps(ids, exit_threshold=threshold, use_cache=False)
    answer, steps = slowly(model, ids, threshold)
    assert torch.equal(found.halting_steps, steps)
    torch.testing.assert_close(found.answer, answer, atol=1e-4, rtol=0)
    kept = model.model.steps(ids, exit_threshold=threshold, use_cache=True)
    torch.testing.assert_close(kept.answer, answer, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_higher_threshold_thinks_longer_and_no_threshold_longest() -> None:
    model, ids = tiny_cognate(max_recursions=4), some_ids(4, 11)
    means = [float(model(ids, exit_threshold=q).halting_steps.float().mean()) for q in (*THRESHOLDS, None)]
    assert means == sorted(means)
    assert means[0] == 1
    assert means[-1] == 4
    assert len(set(means)) > 3


@torch.no_grad()
def test_a_token_stops_where_its_own_probabilities_say() -> None:
    model, ids = tiny_cognate(max_recursions=4), some_ids(3, 11)
    out = model(ids, exit_threshold=0.6)
    assert torch.equal(exit_steps(out.halt_probabilities, 0.6), out.halting_steps)
    torch.testing.assert_close(out.halt_probabilities.sum(-1), torch.ones(3, 11))


def test_halting_is_for_evaluation_and_needs_a_head() -> None:
    ids = some_ids(1, 5)
    assert tiny_cognate(exit_threshold=0.0).train().model.steps(ids).halting_steps.unique().tolist() == [3]
    assert tiny_cognate(exit_threshold=0.0)(ids).halting_steps.unique().tolist() == [1]
    assert tiny_cognate(exit_threshold=0.0)(ids, exit_threshold=None).halting_steps.unique().tolist() == [3]
    with pytest.raises(UserError, match="cannot tell when to stop"):
        tiny_cognate(halting="none")(ids, exit_threshold=0.5)


@torch.no_grad()
def test_padding_does_not_think() -> None:
    model, ids = tiny_cognate(max_recursions=4), some_ids(2, 11)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    with counted_work() as work:
        steps = model(ids, attention_mask=mask, exit_threshold=1.0, use_cache=False).halting_steps
    assert work.core == model.config.core_calls * 2 * (22 + 3 * int(mask.sum()))
    assert steps[0, :6].tolist() == [1] * 6


@pytest.mark.parametrize("cached", [False, True])
@torch.no_grad()
def test_the_core_runs_on_active_tokens_alone(cached: bool) -> None:
    model, ids = tiny_cognate(max_recursions=4), some_ids(4, 11)
    spent = []
    for threshold in (0.0, 0.6, None):
        with counted_work() as work:
            steps = model(ids, exit_threshold=threshold, use_cache=cached).halting_steps
        assert work.prelude == ids.numel()
        assert work.core == int(steps.sum()) * model.config.core_calls * model.config.num_core_layers
        spent.append(work.flops)
    assert spent == sorted(spent)
    assert spent[0] < 0.75 * spent[-1]


@torch.no_grad()
def test_decoding_runs_the_core_only_while_a_row_thinks() -> None:
    model, ids = tiny_cognate(max_recursions=4, exit_threshold=0.5, recursion="plain"), some_ids(4, 11)
    cache = model(ids[:, :5]).past_key_values
    for token in range(5, 7):
        with counted_work() as work:
            steps = model(ids[:, token : token + 1], past_key_values=cache).halting_steps
        assert work.core == int(steps.sum()) * model.config.core_calls * model.config.num_core_layers
