"""The memory's chunks against the same equations token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agentforge.models.delta_rule import (
    Writes,
    gated_delta_rule,
    run_delta_rule,
    unit_lower_inverse,
)
from tests.models.delta_rules import part, random_case, token_by_token


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("length, chunk_size", [(1, 64), (7, 64), (7, 3), (40, 1), (40, 16), (67, 64), (67, 32)])
@pytest.mark.parametrize("starts, padded", [(False, False), (True, False), (True, True)])
def test_chunks_equal_the_equations_token_by_token(
    length: int, chunk_size: int, momentum: bool, starts: bool, padded: bool
) -> None:
    case = random_case(length, momentum=momentum, starts=starts, padded=padded)
    expected, last = token_by_token(case.writes, case.state, case.starts)
    out, _, state = run_delta_rule(case.writes, case.state, starts=case.starts, chunk_size=chunk_size)
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state, last, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("length", [1, 7])
def test_gradients_are_right(length: int, momentum: bool) -> None:
    case = random_case(length, momentum=momentum, starts=True, padded=True)
    w = case.writes
    names = ["q", "k", "v", "beta", "log_decay", *(["log_momentum"] if momentum else [])]
    inputs = [getattr(w, name)[:1, :1].detach().requires_grad_() for name in names]
    assert w.padding is not None and case.starts is not None
    padding, starts = w.padding[:1], case.starts[:1]

    def run(state: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        writes = replace(Writes(*tensors), padding=padding)
        return run_delta_rule(writes, state, starts=starts, chunk_size=3)

    assert torch.autograd.gradcheck(run, (case.state[:1, :1].requires_grad_(), *inputs))


@pytest.mark.parametrize("momentum", [False, True])
def test_gradients_of_many_chunks_equal_those_of_the_equations(momentum: bool) -> None:
    case = random_case(50, momentum=momentum, starts=True, padded=True)
    names = [n for n in ("q", "k", "v", "beta", "log_decay", "log_momentum") if getattr(case.writes, n) is not None]
    grads = []
    for rule in (token_by_token, lambda w, s, b: run_delta_rule(w, s, starts=b, chunk_size=16)[::2]):
        leaves = {name: getattr(case.writes, name).detach().requires_grad_() for name in names}
        state = case.state.detach().requires_grad_()
        out, last = rule(replace(case.writes, **leaves), state, case.starts)
        grads.append(torch.autograd.grad(out.square().sum() + last.sum(), [state, *leaves.values()]))
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("momentum", [False, True])
def test_a_stream_can_be_read_in_pieces(momentum: bool) -> None:
    case = random_case(60, momentum=momentum, starts=True, padded=True)
    whole, _, last = run_delta_rule(case.writes, case.state, starts=case.starts, chunk_size=16)
    state, pieces = case.state, []
    assert case.starts is not None
    for first, end in [(0, 1), (1, 2), (2, 21), (21, 59), (59, 60)]:
        starts = case.starts[:, first:end]
        out, _, state = run_delta_rule(part(case.writes, first, end), state, starts=starts, chunk_size=16)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 2), whole)
    torch.testing.assert_close(state, last)


def moved(rule: object, t: int) -> Tensor:
    """Return by how much outputs move, `(T,)`, when token t is another."""
    case = random_case(40)
    changed = {}
    for name in ("q", "k", "v", "beta", "log_decay"):
        x = getattr(case.writes, name).clone()
        x[:, :, t] = x[:, :, t - 1]
        changed[name] = x
    outs = [rule(w, case.state)[0] for w in (case.writes, replace(case.writes, **changed))]  # type: ignore[operator]
    return (outs[0] - outs[1]).abs().amax((0, 1, 3))


@pytest.mark.parametrize("t", [1, 15, 16, 39])
def test_no_output_sees_a_later_token(t: int) -> None:
    difference = moved(lambda w, s: run_delta_rule(w, s, chunk_size=16), t)
    assert difference[:t].max() == 0 and difference[t] > 1e-3


def test_a_leaky_rule_fails_the_test_of_causality() -> None:
    assert moved(lambda w, s: token_by_token(w, s, leaky=True), 15)[:15].max() > 1e-3


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_nothing_goes_from_a_document_to_the_next(chunk_size: int) -> None:
    case = random_case(20)
    starts = torch.zeros(2, 20, dtype=torch.bool)
    starts[:, 7] = True
    w = case.writes
    poisoned = replace(w, v=torch.cat([w.v[:, :, :7] * 1e30, w.v[:, :, 7:]], 2))
    expected, _, last = run_delta_rule(part(w, 7, 20), None, chunk_size=chunk_size)
    out, _, state = run_delta_rule(poisoned, case.state * 1e30, starts=starts, chunk_size=chunk_size)
    torch.testing.assert_close(out[:, :, 7:], expected)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("decay", [0.0, -torch.inf])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_gates_at_their_ends_give_right_numbers_and_finite_gradients(beta: float, decay: float, momentum: bool) -> None:
    case = random_case(20, momentum=momentum, starts=True)
    w = case.writes
    w = replace(w, beta=torch.full_like(w.beta, beta), log_decay=torch.full_like(w.log_decay, decay))
    expected, last = token_by_token(w, case.state, case.starts)
    leaves = [x.detach().requires_grad_() for x in (w.q, w.k, w.v, w.beta, w.log_decay)]
    out, _, state = run_delta_rule(
        replace(Writes(*leaves), log_momentum=w.log_momentum), case.state, starts=case.starts
    )
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(state, last)
    gradients = torch.autograd.grad(out.square().sum() + state.sum(), leaves)
    assert all(g.isfinite().all() for g in gradients)


def test_an_open_write_without_decay_is_remembered_exactly() -> None:
    """With beta = 1 a key returns the last value that was stored under it, whatever other keys were used since."""
    keys = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0][None, None]
    k, v = torch.cat([keys, keys[:, :, :2]], 2), torch.randn(1, 1, 8, 5, dtype=torch.float64)
    ones = torch.ones(1, 1, 8, dtype=torch.float64)
    _, state = gated_delta_rule(k, k, v, ones, 0 * ones)
    torch.testing.assert_close(keys[0, 0] @ state[0, 0], torch.cat([v[0, 0, 6:], v[0, 0, 2:6]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_sequences_stay_finite(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k = (functional.normalize(torch.randn(1, 1, 8192, 16), dim=-1) for _ in range(2))
    # long stretches with one and the same key are the hardest: every power of the system's matrix is large
    k[:, :, 2000:6000] = k[:, :, :1]
    v, beta, log_decay = torch.randn(1, 1, 8192, 16), torch.rand(1, 1, 8192), -torch.rand(1, 1, 8192) * 0.01
    starts = torch.rand(1, 8192) < 0.001
    leaves = [x.to(dtype).requires_grad_() for x in (q, k, v, beta, log_decay)]
    out, state = gated_delta_rule(*leaves, starts=starts)  # type: ignore[arg-type, misc]
    assert out.dtype == dtype and state.dtype == torch.float32 and out.isfinite().all()
    assert out.float().abs().max() < 20
    out.float().square().mean().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in leaves)
    if dtype == torch.float32:
        exact, _ = gated_delta_rule(*(x.detach().double() for x in leaves), starts=starts)  # type: ignore[misc]
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-4)


def test_autocast_does_not_reach_the_triangular_system() -> None:
    w = random_case(40, dtype=torch.float32).writes
    expected, _ = gated_delta_rule(w.q, w.k, w.v, w.beta, w.log_decay)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, _ = gated_delta_rule(w.q, w.k, w.v, w.beta, w.log_decay)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("size", [1, 5, 16, 17, 50, 64])
def test_the_inverse_by_blocks(size: int) -> None:
    x = torch.randn(3, size, size, dtype=torch.float64) * 0.3
    identity = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(unit_lower_inverse(x) @ (identity + x.tril(-1)), identity.expand(3, -1, -1))
