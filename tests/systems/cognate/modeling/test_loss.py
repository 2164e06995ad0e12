"""The loss of a Cognate against a loop over tokens and iterations, and what the forward pass makes of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agentforge.losses import linear_cross_entropy
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.halting import answer_of, halting_probabilities
from agentforge.systems.cognate.modeling.loss import summed_cross_entropy, summed_loss
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.modeling.steps import StepStates

ROWS, LENGTH, WIDTH, WORDS, K, LAYERS = 2, 7, 6, 13, 3, 2
TRAINED = 9  # of the labels
SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_prelude_layers": 1,
    "num_core_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "memory_head_dim": 8,
    "persistent_tokens": 2,
    "gate_rank": 4,
    "micro_steps": 1,
}


def states(halting: str = "expected") -> StepStates:
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()

    hidden = tuple(random(ROWS, LENGTH, WIDTH) for _ in range(K))
    return gathered(
        halting,
        hidden,
        random(ROWS, LENGTH, K) if halting != "none" else None,
        torch.rand(ROWS, LENGTH, LAYERS, generator=draw, dtype=torch.float64).requires_grad_(),
    )


def gathered(halting: str, hidden: tuple[Tensor, ...], logits: Tensor | None, share: Tensor) -> StepStates:
    """What the model's `steps` returns."""
    draw = torch.Generator().manual_seed(3)
    config = CognateConfig(halting=halting)
    return StepStates(
        hidden=hidden,
        answer=answer_of(config, hidden, logits),
        halting_logits=logits,
        halt_probabilities=None if logits is None else halting_probabilities(config, logits.detach()),
        memory_share=share,
        surprise=torch.rand(ROWS, LENGTH, LAYERS, generator=draw),
        decay=torch.rand(ROWS, LENGTH, LAYERS, generator=draw),
        halting_steps=torch.full((ROWS, LENGTH), K),
    )


def labels() -> Tensor:
    found = torch.randint(WORDS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    found[0, :3] = -100
    found[1, 5] = -100
    return found


def head() -> nn.Linear:
    made = nn.Linear(WIDTH, WORDS, bias=False).double()
    nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(2))
    return made


def reference(config: CognateConfig, steps: StepStates, matrix: Tensor, wanted: Tensor) -> dict[str, float]:
    """Token by token: what the docstring of the module says."""
    found = dict.fromkeys(("loss_ce", "expected", "cost", "guesses"), 0.0)
    for row in range(ROWS):
        for place in range(LENGTH - 1):
            label = int(wanted[row, place + 1])
            if label == -100:
                continue
            scores = [steps.hidden[k][row, place] @ matrix.T for k in range(K)]
            losses = [-torch.log_softmax(score, -1)[label].item() for score in scores]
            if config.halting != "act":
                found["loss_ce"] += losses[-1]
            if steps.halting_logits is None:
                continue
            left, stops = 1.0, []
            rates = [1 / (1 + math.exp(-logit)) for logit in steps.halting_logits[row, place].tolist()]
            for rate in rates[:-1]:
                stops.append(left * rate)
                left *= 1 - rate
            stops.append(left)
            if config.halting == "act":
                total, taken = 0.0, 0
                while taken < K - 1 and total + rates[taken] < 0.99:
                    total, taken = total + rates[taken], taken + 1
                stops = [*rates[:taken], 1 - total, *[0.0] * (K - 1 - taken)]
                found["cost"] += config.halting_weight * (taken + 1 + 1 - total)
                mean = sum(p * steps.hidden[k][row, place] for k, p in enumerate(stops))
                found["loss_ce"] -= torch.log_softmax(mean @ matrix.T, -1)[label].item()
            elif config.halting == "pondernet":
                raw = [(1 - config.halting_prior) ** k for k in range(K)]
                prior = [value / sum(raw) for value in raw]
                found["cost"] += config.halting_weight * sum(
                    p * math.log(p / q) for p, q in zip(stops, prior, strict=True)
                )
            else:
                found["cost"] += config.entropy_weight * sum(p * math.log(p) for p in stops)
            found["expected"] += sum(p * loss for p, loss in zip(stops, losses, strict=True))
            for rate, score in zip(rates, scores, strict=True):
                right = int(score.argmax()) == label
                found["guesses"] -= config.correctness_weight * math.log(rate if right else 1 - rate)
    return found


@pytest.mark.parametrize("halting", ["none", "act", "pondernet", "expected"])
@pytest.mark.parametrize("blocks", [1, 100])
def test_it_is_what_a_loop_makes(halting: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_cross_entropy, "BLOCK_BYTES", 4 * WORDS * 3 * blocks)
    config = CognateConfig(
        halting=halting,
        halting_weight=0.2,
        halting_prior=0.4,
        entropy_weight=0.3,
        correctness_weight=0.1,
        gate_floor=0.6,
    )
    steps, wanted, matrix = states(halting), labels(), head()
    total, parts = summed_loss(config, steps, matrix, wanted)
    expected = reference(config, steps, matrix.weight, wanted)
    assert parts["loss_ce"].item() == pytest.approx(expected["loss_ce"])
    halted = 0.0
    if halting != "none":
        moved = 0.0 if halting == "act" else 0.5 * (expected["expected"] - expected["loss_ce"])
        halted = moved + expected["cost"] + expected["guesses"]
        assert parts["loss_act"].item() == pytest.approx(halted)
    gate = 0.0
    for row in range(ROWS):
        places = [place for place in range(LENGTH - 1) if wanted[row, place + 1] != -100]
        for layer in range(LAYERS):
            share = sum(steps.memory_share[row, place, layer].item() for place in places) / len(places)
            gate += len(places) * max(0.6 - share, 0.0) / LAYERS
    assert parts["loss_gate"].item() == pytest.approx(gate) and gate > 0
    assert total.item() == pytest.approx(expected["loss_ce"] + halted + config.gate_weight * gate)
    assert parts["tokens"] == (wanted[:, 1:] != -100).sum() == TRAINED
    annealed, _ = summed_loss(config, steps, matrix, wanted, gate_weight=0.0)
    assert annealed.item() == pytest.approx(expected["loss_ce"] + halted)


@pytest.mark.parametrize("halting", ["act", "pondernet", "expected"])
def test_its_gradients_are_those_of_finite_differences(halting: str) -> None:
    config = CognateConfig(halting=halting, halting_weight=0.2, correctness_weight=0.1, gate_floor=0.6, gate_weight=1.0)
    given, matrix, wanted = states(halting), head(), labels()

    def loss(hidden: Tensor, logits: Tensor, share: Tensor) -> Tensor:
        return summed_loss(config, gathered(halting, (hidden, *given.hidden[1:]), logits, share), matrix, wanted)[0]

    assert given.halting_logits is not None
    assert torch.autograd.gradcheck(loss, (given.hidden[0], given.halting_logits, given.memory_share))


def test_a_share_of_the_positions_has_the_right_mean() -> None:
    whole = CognateConfig(halting="expected", correctness_weight=0.2)
    share = CognateConfig(halting="expected", correctness_weight=0.2, step_loss_share=0.5)
    steps, wanted, matrix = states(), labels(), head()
    exact, parts = summed_loss(whole, steps, matrix, wanted)
    torch.manual_seed(0)
    drawn = [summed_loss(share, steps, matrix, wanted) for _ in range(600)]
    losses = torch.stack([loss.detach() for loss, _ in drawn])
    assert losses.std() > 0
    assert abs(losses.mean() - exact) < 4 * losses.std() / math.sqrt(len(losses))
    assert {found["loss_ce"].item() for _, found in drawn} == {parts["loss_ce"].item()}, (
        "the last step is never sampled"
    )


def test_the_readings_are_means_over_tokens() -> None:
    steps, wanted, matrix = states(), labels(), head()
    _, parts = summed_loss(CognateConfig(), steps, matrix, wanted)
    chosen = (wanted[:, 1:] != -100).nonzero().tolist()
    assert steps.halting_logits is not None and steps.halt_probabilities is not None
    expected = sum(
        float((steps.halt_probabilities[row, place] * torch.arange(1, K + 1)).sum()) for row, place in chosen
    )
    assert parts["act/avg_halting_steps"].item() == pytest.approx(expected, rel=1e-5)
    rates = torch.stack([torch.sigmoid(steps.halting_logits[row, place, :-1]) for row, place in chosen])
    assert parts["act/halt_prob_mean"].item() / TRAINED == pytest.approx(rates.mean().item(), rel=1e-5)
    assert parts["act/halt_prob_square"].item() / TRAINED == pytest.approx(rates.square().mean().item(), rel=1e-5)
    for name, values in (("gate", steps.memory_share), ("surprise", steps.surprise), ("decay", steps.decay)):
        mean = sum(values[row, place].mean().item() for row, place in chosen)
        assert parts[f"ltm/{name}_mean"].item() == pytest.approx(mean, rel=1e-5)


def small(**more: Any) -> CognateForCausalLM:
    torch.manual_seed(0)
    return CognateForCausalLM(CognateConfig(**SMALL, **more))


def test_the_forward_pass_divides_it_by_the_tokens_of_the_step() -> None:
    model, wanted = small(gate_floor=0.9).train(), labels()
    ids = wanted.clamp(min=0)
    total, parts = summed_loss(model.config, model.model.steps(ids), model.lm_head, wanted)
    assert model(ids, labels=wanted).loss.item() == pytest.approx(total.item() / TRAINED, rel=1e-5)
    assert model(ids, labels=wanted, num_items_in_batch=32).loss.item() == pytest.approx(total.item() / 32, rel=1e-5)
    assert parts["loss_gate"] > 0


def test_evaluation_is_the_cross_entropy_of_the_logits() -> None:
    model, wanted = small(correctness_weight=1.0).eval(), labels()
    ids = wanted.clamp(min=0)
    with torch.no_grad():
        out = model(ids, labels=wanted)
        plain = nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), wanted[:, 1:].flatten())
        rows = summed_cross_entropy(model.model.steps(ids).answer, model.lm_head, wanted)
    assert out.loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert rows.sum().item() == pytest.approx(TRAINED * plain.item(), rel=1e-5)
    assert rows[0].item() == pytest.approx(
        nn.functional.cross_entropy(out.logits[0, :-1], wanted[0, 1:], reduction="sum").item(), rel=1e-5
    )


@pytest.mark.parametrize("halting", ["none", "act", "pondernet", "expected"])
@pytest.mark.parametrize("recursion", ["plain", "trm"])
def test_every_parameter_learns(halting: str, recursion: str) -> None:
    model = small(halting=halting, recursion=recursion, gate_floor=0.9).train()
    ids = torch.randint(WORDS, (2, 12))
    model(ids, labels=ids).loss.backward()
    silent = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []
