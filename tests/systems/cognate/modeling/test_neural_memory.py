"""The memory layer: rows, documents, padding, pieces of a stream, beams, and what it says about itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.neural_memory import MemoryState, NeuralMemory
from agentforge.systems.cognate.modeling.short_convolution import short_convolution

WIDTH, LENGTH = 24, 75  # more than a chunk


def memory(**options: Any) -> NeuralMemory:
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "memory_heads": 2, "memory_head_dim": 8, "vocab_size": 16, **options}
    return NeuralMemory(CognateConfig(**shape)).double()


def tokens(rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randn(rows, length, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def document_starts(rows: int = 2) -> Tensor:
    """Documents of all lengths, shorter than the convolution as well."""
    starts = torch.zeros(rows, LENGTH, dtype=torch.bool)
    starts[0, [0, 1, 3, 6, 10, 70]] = starts[1, [30, 73]] = True
    return starts


def assert_same_state(one: MemoryState, other: MemoryState) -> None:
    torch.testing.assert_close(one.matrix, other.matrix)
    torch.testing.assert_close(one.tail, other.tail)


@pytest.mark.parametrize("momentum", [False, True])
def test_a_layer_of_the_default_model_has_167302_parameters(momentum: bool) -> None:
    layer = NeuralMemory(CognateConfig(memory_momentum=momentum))
    assert sum(p.numel() for p in layer.parameters()) == 167_302


@pytest.mark.parametrize("momentum", [False, True])
def test_every_parameter_gets_a_gradient(momentum: bool) -> None:
    layer = memory(memory_momentum=momentum)
    layer(tokens())[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().amax() > 0, name
    # each gate of each head, too
    assert layer.gates.weight.grad is not None and (layer.gates.weight.grad.abs().amax(1) > 0).all()


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("cuts", [[5, 6, 40], list(range(1, LENGTH))])
def test_pieces_of_a_stream_equal_the_whole(momentum: bool, cuts: list[int]) -> None:
    layer, x, starts = memory(memory_momentum=momentum), tokens(), document_starts()
    whole, last, readings = layer(x, starts=starts)
    state, pieces = None, []
    for first, end in zip([0, *cuts], [*cuts, LENGTH], strict=True):
        out, state, read = layer(x[:, first:end], state, starts[:, first:end])
        pieces.append((out, read["surprise"]))
    torch.testing.assert_close(torch.cat([out for out, _ in pieces], 1), whole)
    torch.testing.assert_close(torch.cat([surprise for _, surprise in pieces], 1), readings["surprise"])
    assert state is not None
    assert_same_state(state, last)


def test_packed_documents_compute_what_they_compute_alone() -> None:
    layer, x = memory(), tokens()
    packed, last, _ = layer(x, starts=document_starts())
    bounds = [0, 1, 3, 6, 10, 70, LENGTH]
    alone = [layer(x[:1, first:end]) for first, end in pairwise(bounds)]
    torch.testing.assert_close(packed[:1], torch.cat([out for out, _, _ in alone], 1))
    assert_same_state(last.index_select(torch.tensor([0])), alone[-1][1])


@pytest.mark.parametrize("momentum", [False, True])
@pytest.mark.parametrize("side", ["left", "right", "between"])
@pytest.mark.parametrize("cuts", [[], [1, 2, 50]])
def test_padding_changes_nothing_wherever_it_stands(side: str, momentum: bool, cuts: list[int]) -> None:
    layer, x, starts = memory(memory_momentum=momentum), tokens(), document_starts()
    before = layer(tokens(2, 9).flip(1))[1]  # a state to be left alone
    expected, last, readings = layer(x, before, starts)
    length = LENGTH + 13
    padding = torch.zeros(2, length, dtype=torch.bool)
    places = {"left": range(13), "right": range(LENGTH, length), "between": range(2, 28, 2)}[side]
    padding[:, list(places)] = True
    wide, wide_starts = tokens(2, length) * 100, torch.ones(2, length, dtype=torch.bool)
    wide[~padding], wide_starts[~padding] = x.flatten(0, 1), starts.flatten()
    state, outs, surprises = before, [], []
    for first, end in zip([0, *cuts], [*cuts, length], strict=True):
        out, state, read = layer(wide[:, first:end], state, wide_starts[:, first:end], padding[:, first:end])
        outs.append(out)
        surprises.append(read["surprise"])
    out = torch.cat(outs, 1)
    torch.testing.assert_close(out[~padding], expected.flatten(0, 1))
    torch.testing.assert_close(torch.cat(surprises, 1)[~padding], readings["surprise"].flatten())
    assert (out[padding] == 0).all()
    assert_same_state(state, last)


def test_padding_of_one_row_only() -> None:
    layer, x = memory(), tokens()
    padding = torch.zeros(2, LENGTH, dtype=torch.bool)
    padding[0, 50:] = True
    out, state, _ = layer(x, padding=padding)
    short, after, _ = layer(x[:1, :50])
    torch.testing.assert_close(out[:1, :50], short)
    assert_same_state(state.index_select(torch.tensor([0])), after)
    # the other row goes on in the next step, this one waits
    _, later, _ = layer(x[:, :1], state, padding=torch.tensor([[True], [False]]))
    assert_same_state(later.index_select(torch.tensor([0])), after)
    assert (later.matrix[1] - state.matrix[1]).abs().max() > 1e-3


@pytest.mark.parametrize("t", [1, 20, 64, 74])
def test_no_output_sees_a_later_token(t: int) -> None:
    layer, x = memory(), tokens()
    changed = x.clone()
    changed[:, t] += 1
    difference = (layer(x)[0] - layer(changed)[0]).abs().amax((0, 2))
    assert difference[:t].max() == 0 and difference[t] > 1e-4


def test_a_convolution_that_sees_the_next_token_fails_the_test_of_causality(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(x: Tensor, weight: Tensor, tail: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        y, inputs = short_convolution(x, weight, tail, starts)
        return torch.cat([y[:, 1:], y[:, -1:]], 1), inputs

    monkeypatch.setattr("agentforge.systems.cognate.modeling.neural_memory.short_convolution", leaky)
    with pytest.raises(AssertionError):
        test_no_output_sees_a_later_token(20)


def test_rows_do_not_see_each_other() -> None:
    layer, x = memory(), tokens(3)
    together = layer(x, starts=document_starts(3))[0]
    torch.testing.assert_close(together[1:2], layer(x[1:2], starts=document_starts()[1:])[0])


def test_beams_take_their_state_with_them() -> None:
    layer, x = memory(), tokens()
    _, state, _ = layer(x)
    chosen = state.index_select(torch.tensor([1, 1, 0]))
    following = tokens(3, 1)
    expected = torch.cat([layer(following[:2], layer(x[[1, 1]])[1])[0], layer(following[2:], layer(x[:1])[1])[0]])
    torch.testing.assert_close(layer(following, chosen)[0], expected)


def test_a_detached_state_passes_no_gradient() -> None:
    layer, x = memory(), tokens().requires_grad_()
    _, state, _ = layer(x)
    assert state.matrix.requires_grad and not state.detach().matrix.requires_grad
    layer(tokens(2, 3), state.detach())[0].sum().backward()
    assert x.grad is None


def test_readings_are_the_surprise_before_the_write_and_the_gates() -> None:
    layer, x = memory(), tokens(1, 2)
    twice = torch.cat([x[:, :1].expand(-1, 8, -1)] * 2, 1)  # one token again and again: less and less of a surprise
    _, state, read = layer(twice)
    surprise = read["surprise"][0]
    assert set(read) == {"surprise", "decay", "write"} and surprise[15] < 0.05 * surprise[3]
    gates = layer.gates(twice).sigmoid()
    torch.testing.assert_close(read["decay"], gates[..., :2].mean(-1))
    torch.testing.assert_close(read["write"], gates[..., 2:4].mean(-1))
    assert not any(reading.requires_grad for reading in read.values())
    assert layer(twice, watch=False)[2] == {}
    assert 0.99 < read["decay"].mean() < 1 and 0.3 < read["write"].mean() < 0.7  # as it starts
    assert state.matrix.shape == (1, 2, 8, 8)


def test_the_effective_rank_counts_associations() -> None:
    matrix = torch.zeros(3, 1, 8, 8)
    matrix[1, 0, 0, 3] = 5.0
    matrix[2, 0, :4, :4] = 2 * torch.eye(4)
    rank = MemoryState(torch.zeros(3, 3, 24), matrix).effective_rank()
    torch.testing.assert_close(rank, torch.tensor([0.0, 1.0, 4.0]))
    # momentum stands below, and is no association
    rank = MemoryState(torch.zeros(3, 3, 24), torch.cat([matrix, torch.randn(3, 1, 8, 8)], 2)).effective_rank()
    torch.testing.assert_close(rank, torch.tensor([0.0, 1.0, 4.0]))


def test_the_convolution_equals_torch_on_one_document() -> None:
    x, weight = tokens(2, 9), torch.randn(WIDTH, 4, dtype=torch.float64)
    tail = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    y, inputs = short_convolution(x, weight, tail)
    expected = functional.conv1d(inputs.transpose(1, 2), weight[:, None], groups=WIDTH).transpose(1, 2)
    torch.testing.assert_close(y, expected)


def test_gradients_of_the_convolution_are_right() -> None:
    x, weight, tail = tokens(2, 6)[..., :2], torch.randn(2, 4), torch.randn(2, 3, 2)
    leaves = [leaf.double().requires_grad_() for leaf in (x, weight, tail)]
    starts = torch.tensor([[0, 0, 1, 0, 1, 1], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)
    for begun in (None, starts):
        assert torch.autograd.gradcheck(lambda *given, begun=begun: short_convolution(*given, begun)[0], leaves)


@pytest.mark.parametrize("kernel", [1, 2])
def test_short_kernels(kernel: int) -> None:
    layer, x = memory(memory_conv_kernel=kernel), tokens()
    whole, last, _ = layer(x, starts=document_starts())
    first, state, _ = layer(x[:, :20], starts=document_starts()[:, :20])
    second, state, _ = layer(x[:, 20:], state, document_starts()[:, 20:])
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    assert_same_state(state, last)


def test_in_bf16_the_state_stays_in_fp32() -> None:
    layer, x = memory(), tokens()
    expected = layer(x)[0]
    out, state, _ = layer.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16 and state.matrix.dtype == torch.float32
    assert (out.double() - expected).norm() < 0.03 * expected.norm()
