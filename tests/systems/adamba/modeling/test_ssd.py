"""The scan and the convolution against slow loops that are written as the paper writes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agentforge.systems.adamba.modeling.convolution import causal_convolution
from agentforge.systems.adamba.modeling.ssd import chunk_length, selective_scan, selective_step

SHAPES = [  # batch, length, heads, head_dim, groups, states, chunk
    (2, 50, 4, 8, 1, 4, 16),
    (1, 37, 4, 8, 2, 4, 10),
    (2, 5, 2, 4, 1, 4, 5),
    (1, 1, 2, 4, 2, 4, 1),
    (1, 129, 4, 4, 2, 4, 64),
]


def inputs(shape: tuple[int, ...], dtype: torch.dtype, *, with_state: bool) -> list[Tensor]:
    batch, length, heads, head_dim, groups, states, _ = shape
    torch.manual_seed(0)
    made = [
        torch.randn(batch, length, heads, head_dim, dtype=dtype),
        torch.rand(batch, length, heads, dtype=dtype) * 0.5,
        -1 - 15 * torch.rand(heads, dtype=dtype),
        torch.randn(batch, length, groups, states, dtype=dtype),
        torch.randn(batch, length, groups, states, dtype=dtype),
        torch.randn(heads, dtype=dtype),
    ]
    if with_state:
        made.append(torch.randn(batch, heads, head_dim, states, dtype=dtype))
    return [tensor.requires_grad_() for tensor in made]


def slow_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One position after the other."""
    batch, length, heads, head_dim = x.shape
    B, C = (tensor.repeat_interleave(heads // B.shape[2], 2) for tensor in (B, C))
    state = x.new_zeros(batch, heads, head_dim, B.shape[3]) if state is None else state
    outputs = []
    for t in range(length):
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        state = state * decay + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        outputs.append((state * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(outputs, 1), state


def largest_share(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    """Return the largest difference, as a share of the largest entry where that is above 1."""
    pairs = [(a.detach().double(), b.detach()) for a, b in zip(found, wanted, strict=True)]
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Chunks as short as the shape says, so that short sequences have several."""
    length = request.node.callspec.params["shape"][-1]
    monkeypatch.setattr("agentforge.systems.adamba.modeling.ssd.chunk_length", lambda *_: length)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_state_and_gradients_are_the_loops(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, with_state: bool
) -> None:
    given = inputs(shape, dtype, with_state=with_state)
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    found, wanted = selective_scan(*given), slow_scan(*exact)
    assert largest_share(found, wanted) < tolerance
    gradients, wanted = (
        torch.autograd.grad(y.sin().sum() + state.cos().sum(), tensors)
        for (y, state), tensors in ((found, given), (wanted, exact))
    )
    # decays cumulated over 64 positions reach -130 here, which leaves fp32 no more than 1e-5 of their differences
    assert largest_share(gradients, wanted) < 5 * tolerance


def test_positions_one_by_one_are_the_scan() -> None:
    given = inputs(SHAPES[1], torch.float64, with_state=True)
    *sequences, state = [tensor.detach() for tensor in given]
    x, dt, A, B, C, D = sequences
    wanted, end = selective_scan(*sequences, state)
    steps = [slice(t, t + 1) for t in range(x.shape[1])]
    found = torch.cat([selective_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, state) for t in steps], 1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(state, end, rtol=0, atol=1e-10)


def test_a_scan_in_two_pieces_is_the_scan() -> None:
    x, dt, A, B, C, D = (tensor.detach() for tensor in inputs(SHAPES[0], torch.float64, with_state=False))
    whole, end = selective_scan(x, dt, A, B, C, D)
    first, middle = selective_scan(x[:, :17], dt[:, :17], A, B[:, :17], C[:, :17], D)
    second, last = selective_scan(x[:, 17:], dt[:, 17:], A, B[:, 17:], C[:, 17:], D, middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(last, end, rtol=0, atol=1e-10)


def test_time_steps_of_zero_or_a_hundred_are_finite() -> None:
    """Decays of e^-1600 in one direction would be e^1600 in the other, above the diagonal."""
    for step in (0.0, 100.0):
        given = inputs(SHAPES[0], torch.float32, with_state=False)
        given[1] = torch.full_like(given[1], step).requires_grad_()
        y, state = selective_scan(*given)
        gradients = torch.autograd.grad(y.sum() + state.sum(), given)
        assert all(tensor.isfinite().all() for tensor in (y, state, *gradients))


def test_half_precision_is_computed_in_single() -> None:
    x, *rest = (tensor.detach() for tensor in inputs(SHAPES[0], torch.float32, with_state=False))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = selective_scan(x.bfloat16(), *rest)
    wanted, _ = selective_scan(x.bfloat16().float(), *rest)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("length", [1, 30, 60, 64, 65, 100, 255, 256, 257, 1000, 2048])
@pytest.mark.parametrize("state_size", [64, 512, 2048, 8192])
def test_chunks_hardly_pad_and_are_of_a_useful_length(length: int, state_size: int) -> None:
    chunk = chunk_length(length, state_size)
    padded = -length % chunk
    assert padded < length / 30 + 1
    assert chunk <= length
    assert length <= 64 or 16 < chunk <= 128


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("kernel", [1, 2, 4])
def test_the_convolution_is_torchs_grouped_one(kernel: int, biased: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True) if biased else None
    wanted = functional.conv1d(x.transpose(1, 2), weight, bias, padding=kernel - 1, groups=6)[..., :9].transpose(1, 2)
    found = causal_convolution(x, weight, bias)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    given = [tensor for tensor in (x, weight, bias) if tensor is not None]
    for a, b in zip(*(torch.autograd.grad(y.sin().sum(), given) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_the_convolution_goes_on_where_the_inputs_before_it_ended() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 9, 6), torch.randn(6, 1, 4)
    whole = causal_convolution(x, weight, None)
    assert torch.equal(causal_convolution(x[:, 5:], weight, None, before=x[:, 2:5]), whole[:, 5:])
