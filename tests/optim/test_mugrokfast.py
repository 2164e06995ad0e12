"""MuGrokfast equals what it is made of, and has the properties that the method is chosen for."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from agentforge.errors import UserError
from agentforge.optim.mugrokfast import MuGrokfast, make_mugrokfast
from agentforge.optim.orthogonal import matched_scale

JORDAN = (3.4445, -4.7750, 2.0315)


class Net(nn.Module):
    """A matrix of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32, bias=False)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 1)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.norm(self.down(self.up(self.embedding(ids)).relu())))
        return found


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def step(model: Net, optimizer: torch.optim.Optimizer, seed: int) -> None:
    ids = torch.randint(0, 40, (16,), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (model(ids)[:, 0] - (ids % 2)).square().mean().backward()
    optimizer.step()


def make(model: nn.Module, tmp_path: Any = "unused", **options: Any) -> MuGrokfast:
    args = {key: options.pop(key) for key in ("learning_rate", "weight_decay") if key in options}
    return make_mugrokfast(model, TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **args), **options)


def by_five_in_bf16(stack: Tensor) -> Tensor:
    """What `torch.optim.Muon` does, matrix by matrix."""
    from torch.optim._muon import _zeropower_via_newtonschulz

    return torch.stack([_zeropower_via_newtonschulz(m, JORDAN, 5, 1e-7).float() for m in stack])


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_it_equals_torchs_muon_with_its_coefficients(shape: tuple[int, int], nesterov: bool) -> None:
    mine, theirs = (nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    options = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9, "nesterov": nesterov}
    ours = MuGrokfast([{"params": [mine], "use_muon": True}], orthogonalize=by_five_in_bf16, **options)
    oracle = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **options)
    for seed in range(4):
        mine.grad = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        theirs.grad = mine.grad.clone()
        ours.step()
        oracle.step()
    assert torch.allclose(mine, theirs, atol=2e-4), (mine - theirs).abs().max()


def test_the_rest_equals_adamw_bit_for_bit() -> None:
    mine, theirs = net(), net()
    options: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.95), "eps": 1e-8}
    ours = MuGrokfast([{"params": list(mine.parameters())}], **options)
    oracle = torch.optim.AdamW(theirs.parameters(), fused=True, **options)
    for seed in range(3):
        step(mine, ours, seed)
        step(theirs, oracle, seed)
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def published_filter(gradient: Tensor, memory: dict[str, Tensor], alpha: float, weight: float) -> Tensor:
    """`gradfilter_ema` of the authors' code, for one parameter."""
    memory.setdefault("average", gradient.clone())
    memory["average"] = memory["average"] * alpha + gradient * (1 - alpha)
    return gradient + memory["average"] * weight


def test_the_filter_is_the_published_one() -> None:
    mine, theirs = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))
    ours = MuGrokfast([{"params": [mine]}], lr=0.01, weight_decay=0.0, grokfast_lambda=2.0, grokfast_alpha=0.9)
    oracle = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.0, betas=(0.9, 0.95), fused=True)
    memory: dict[str, Tensor] = {}
    for seed in range(6):
        gradient = torch.randn(6, generator=torch.Generator().manual_seed(seed))
        mine.grad = gradient.clone()
        theirs.grad = published_filter(gradient, memory, 0.9, 2.0)
        ours.step()
        oracle.step()
        assert torch.equal(mine.grad, gradient), "the gradient itself is left alone"
    assert torch.allclose(mine, theirs, atol=1e-6)


def gain(of: Callable[[MuGrokfast, dict[str, Any], list[Tensor]], list[Tensor]]) -> float:
    """Return how many times as large a constant gradient comes out of the filter after many steps."""
    weight = nn.Parameter(torch.zeros(5))
    optimizer = MuGrokfast([{"params": [weight]}], grokfast_lambda=2.0)
    weight.grad = torch.arange(1.0, 6.0)
    for _ in range(50):
        found = of(optimizer, optimizer.param_groups[0], [weight])
    return float((found[0] / weight.grad).mean())


def test_a_constant_gradient_becomes_one_plus_lambda_times_as_large() -> None:
    def reversed_sign(optimizer: MuGrokfast, group: dict[str, Any], weights: list[Tensor]) -> list[Tensor]:
        right = MuGrokfast._filtered(optimizer, group, weights)
        return [(1 + group["grokfast_lambda"]) * w.grad - (r - w.grad) for w, r in zip(weights, right, strict=True)]

    assert gain(MuGrokfast._filtered) == pytest.approx(3.0, rel=1e-5)
    assert gain(reversed_sign) == pytest.approx(1.0, rel=1e-5), "the test tells the wrong sign from the right one"


def test_a_rate_of_zero_moves_nothing_and_a_schedule_reaches_both_kinds() -> None:
    model = net()
    optimizer = make(model, learning_rate=0.01, weight_decay=0.1, aux_learning_rate=0.002)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.002, 0.002]
    before = copy.deepcopy(model.state_dict())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step == 0 else 0.5)
    step(model, optimizer, 0)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.005, 0.001, 0.001]
    step(model, optimizer, 1)
    changed = {name for name, now in model.state_dict().items() if not torch.equal(before[name], now)}
    assert changed == set(before)


def test_decay_is_decoupled_from_the_gradient() -> None:
    weights = []
    for decay in (0.0, 0.5):
        weight = nn.Parameter(torch.eye(20, 30))
        optimizer = MuGrokfast([{"params": [weight], "use_muon": True}], lr=0.1, weight_decay=decay)
        weight.grad = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        weights.append(weight.detach())
    assert torch.allclose(weights[0] - weights[1], 0.1 * 0.5 * torch.eye(20, 30), atol=1e-6)


def test_muon_does_not_see_how_large_the_gradient_is() -> None:
    moved = []
    for scale in (1.0, 1000.0):
        weight = nn.Parameter(torch.zeros(24, 40))
        optimizer = MuGrokfast([{"params": [weight], "use_muon": True}], lr=0.1, grokfast_lambda=0.5)
        weight.grad = scale * torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        moved.append(weight.detach())
    assert torch.allclose(*moved, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 20), (20, 1)])
def test_a_single_row_or_column_moves_by_the_matched_scale(shape: tuple[int, int]) -> None:
    weight = nn.Parameter(torch.zeros(*shape))
    optimizer = MuGrokfast([{"params": [weight], "use_muon": True}], lr=0.1)
    weight.grad = torch.ones(*shape)
    optimizer.step()
    assert weight.norm().item() == pytest.approx(0.1 * matched_scale(*shape), rel=0.35)


def test_the_state_makes_a_round_trip_bit_for_bit() -> None:
    model = net()
    optimizer = make(model, learning_rate=0.01, grokfast_lambda=0.3)
    for seed in range(3):
        step(model, optimizer, seed)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = copy.deepcopy(model)
    other = make(again, learning_rate=0.01, grokfast_lambda=0.3)
    other.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(again, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_without_gradients_nothing_moves_and_no_state_changes() -> None:
    model = net()
    optimizer = make(model, learning_rate=0.01, weight_decay=0.1)
    step(model, optimizer, 0)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    assert all(torch.equal(before[0][name], now) for name, now in model.state_dict().items())
    for index, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(before[1][index][name], value) for name, value in state.items())


def test_statistics_are_of_the_last_step_and_absent_where_there_are_none() -> None:
    model = net()
    optimizer = make(model, learning_rate=0.01, aux_learning_rate=0.002)
    assert optimizer.statistics() == {"lr_muon": 0.01, "lr_aux": 0.002}
    before = torch.cat([model.up.weight.detach().flatten(), model.down.weight.detach().flatten()])
    step(model, optimizer, 0)
    moved = torch.cat([model.up.weight.detach().flatten(), model.down.weight.detach().flatten()]) - before
    assert optimizer.statistics()["update_rms"] == pytest.approx(moved.square().mean().sqrt().item(), rel=1e-3)
    filtering = make(net(), learning_rate=0.01, grokfast_lambda=0.3)
    model = net()
    filtering = make(model, learning_rate=0.01, grokfast_lambda=0.3)
    step(model, filtering, 0)
    assert filtering.statistics()["grokfast_ratio"] == pytest.approx(0.3, rel=1e-4)


def test_sharded_parameters_are_refused() -> None:
    weight = nn.Parameter(torch.zeros(20, 20))
    weight.ds_id = 0  # type: ignore[attr-defined]  # as ZeRO-3 marks them
    with pytest.raises(UserError, match="orthogonalises whole matrices, but FSDP and ZeRO hold parts"):
        MuGrokfast([{"params": [weight], "use_muon": True}])


def test_a_preset_is_filled_in_under_the_options() -> None:
    optimizer = make(net(), preset="phase5", grokfast_alpha=0.9)
    assert (optimizer.defaults["grokfast_lambda"], optimizer.defaults["grokfast_alpha"]) == (2.0, 0.9)


def test_stacks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = net(), net()
    step(whole, make(whole, learning_rate=0.01), 0)
    monkeypatch.setattr("agentforge.optim.mugrokfast.STACK", 1)
    step(pieces, make(pieces, learning_rate=0.01), 0)
    assert torch.allclose(whole.up.weight, pieces.up.weight, atol=1e-6)


def test_matrices_take_turns_and_go_as_far_as_they_would_in_every_step() -> None:
    moved = {}
    for every in (1, 2):
        weights = [nn.Parameter(torch.zeros(20, 30)) for _ in range(2)]
        optimizer = MuGrokfast([{"params": weights, "use_muon": True}], lr=0.1, weight_decay=0.0, every=every)
        steps = []
        for _ in range(4):
            before = [weight.detach().clone() for weight in weights]
            for weight in weights:
                weight.grad = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
            optimizer.step()
            steps.append([not torch.equal(a, b) for a, b in zip(before, weights, strict=True)])
        moved[every] = (steps, [weight.detach() for weight in weights])
    assert moved[1][0] == [[True, True]] * 4
    assert moved[2][0] == [[True, False], [False, True]] * 2
    for once, twice in zip(moved[1][1], moved[2][1], strict=True):
        assert torch.allclose(once, twice, atol=1e-4)
