"""The head's cross-entropy in blocks against torch's over whole logits: value, gradients, dtypes and memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from agentforge.losses import linear_cross_entropy as module
from agentforge.losses.linear_cross_entropy import head_cross_entropy, linear_cross_entropy

WORDS, WIDTH, TOKENS = 11, 5, 23


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=dtype, generator=draw).requires_grad_()
    head = torch.randn(WORDS, WIDTH, dtype=dtype, generator=draw).requires_grad_()
    weights = torch.rand(TOKENS, dtype=dtype, generator=draw).requires_grad_()
    return hidden, head, torch.randint(WORDS, (TOKENS,), generator=draw), weights


@pytest.fixture(autouse=True)
def blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 4 * WORDS)


def test_it_is_the_cross_entropy_of_the_logits() -> None:
    hidden, head, targets, weights = inputs()
    found = linear_cross_entropy(hidden, head, targets, weights)
    logits = hidden @ head.T
    each = functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(found.loss, (weights * each).sum())
    torch.testing.assert_close(found.entropies, each.detach())
    assert torch.equal(found.right, logits.argmax(-1) == targets)
    assert 0 < found.right.sum() < TOKENS and not found.entropies.requires_grad
    plain = linear_cross_entropy(hidden, head, targets)
    torch.testing.assert_close(plain.loss, each.sum())


def test_its_gradients_are_those_of_finite_differences() -> None:
    hidden, head, targets, weights = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w, p: linear_cross_entropy(h, w, targets, p).loss, (hidden, head, weights)
    )


@pytest.mark.parametrize("trained", [(True, False, False), (False, True, False), (False, False, True)])
def test_what_is_not_trained_gets_no_gradient(trained: tuple[bool, bool, bool]) -> None:
    hidden, head, targets, weights = inputs()
    expected = torch.autograd.grad(
        (weights * functional.cross_entropy(hidden @ head.T, targets, reduction="none")).sum(), (hidden, head, weights)
    )
    given = [
        tensor.detach().requires_grad_(wanted) for tensor, wanted in zip((hidden, head, weights), trained, strict=True)
    ]
    (2 * linear_cross_entropy(given[0], given[1], targets, given[2]).loss).backward()
    for tensor, wanted, gradient in zip(given, trained, expected, strict=True):
        assert (tensor.grad is not None) == wanted
        if wanted:
            torch.testing.assert_close(tensor.grad, 2 * gradient)


def test_autocast_multiplies_in_bf16_and_adds_in_fp32() -> None:
    hidden, head, targets, _ = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(hidden, head, targets)
    found.loss.backward()
    logits = (hidden.detach().bfloat16() @ head.detach().bfloat16().T).float()
    torch.testing.assert_close(found.loss, functional.cross_entropy(logits, targets, reduction="sum"))
    assert head.grad is not None and head.grad.dtype == torch.float32
    exact = torch.autograd.grad(functional.cross_entropy(hidden @ head.T, targets, reduction="sum"), head)[0]
    assert (head.grad - exact).norm() < 0.02 * exact.norm()


def test_small_gradients_are_not_lost_in_fp16() -> None:
    """What fp16's loss scaler multiplies later is made before it: 1e-8 is 0 in fp16."""
    hidden, head, targets, weights = inputs(torch.float32)
    tiny = (weights.detach() * 1e-7).requires_grad_()
    with torch.autocast("cpu", torch.float16):
        found = linear_cross_entropy(hidden.half(), head, targets, tiny)
    (65536.0 * found.loss).backward()
    each = functional.cross_entropy(hidden @ head.T, targets, reduction="none")
    exact = torch.autograd.grad(65536.0 * (tiny.detach() * each).sum(), (hidden, head))
    for given, gradient in zip((hidden, head), exact, strict=True):
        assert given.grad is not None and (given.grad - gradient).norm() < 0.02 * gradient.norm()


def test_no_tokens_cost_nothing() -> None:
    hidden, head, targets, weights = inputs()
    found = linear_cross_entropy(hidden[:0], head, targets[:0], weights[:0])
    found.loss.backward()
    assert found.loss == 0 and head.grad is not None and not head.grad.any()


def test_a_word_without_probability_is_infinite_and_not_an_error() -> None:
    # the guard against NaN of the trainer must see it
    hidden = torch.full((1, WIDTH), float("inf"), requires_grad=True)
    assert not torch.isfinite(linear_cross_entropy(hidden, torch.ones(WORDS, WIDTH), torch.zeros(1).long()).loss)


def test_no_tensor_is_as_wide_as_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets, weights = inputs()
    widest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal widest
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                widest = max(widest, made.numel())
            return made

    with Watch():
        linear_cross_entropy(hidden, head, targets, weights).loss.backward()
    assert widest <= max(TOKENS * WIDTH, WORDS * WIDTH) < TOKENS * WORDS


@pytest.mark.parametrize("kind", ["plain", "hooked", "bias", "lora"])
def test_a_head_of_any_kind_is_run_as_it_stands(kind: str) -> None:
    hidden, matrix, targets, weights = inputs()
    head: nn.Module = nn.Linear(WIDTH, WORDS, bias=kind == "bias").double()
    with torch.no_grad():
        head.weight.copy_(matrix)
    if kind == "hooked":
        head.register_forward_hook(lambda module, args, out: 2 * out)
    if kind == "lora":
        head = nn.Sequential(head, nn.Linear(WORDS, WORDS).double())
    first = next(head.parameters())
    expected = (weights * functional.cross_entropy(head(hidden), targets, reduction="none")).sum()
    gradients = torch.autograd.grad(expected, (hidden, first, weights))
    found = head_cross_entropy(head, hidden, targets, weights)
    torch.testing.assert_close(found.loss, expected)
    torch.testing.assert_close(torch.autograd.grad(found.loss, (hidden, first, weights)), gradients)
    assert torch.equal(found.right, head(hidden).argmax(-1) == targets)
    nothing = head_cross_entropy(head, hidden[:0], targets[:0], weights[:0])
    assert nothing.loss == 0 and nothing.right.shape == (0,)
