"""What a Cognate learns from: one function for the forward pass with labels and for the house's objective.

    loss = loss_ce + loss_act + weight * loss_gate

    loss_ce     cross-entropy after the last iteration, which a model without an exit threshold reads
    loss_act    what halting adds. Half the weight moves from the last iteration to where tokens would stop,
                (E_p[CE] - CE_K) / 2, for a step that is never trained alone is not worth stopping at, and one whose
                share of p has fallen to nothing must not be forgotten. Then the price of p by `config.halting`: ACT's
                ponder cost, PonderNet's divergence, LoopLM's entropy; and TRM's guess whether a step is right.
    loss_gate   how far the memory's share is below the floor

All of them are sums over tokens, with the numbers that a run is watched by beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agentforge.losses.gates import share_floor_loss
from agentforge.losses.halting import (
    Act,
    adaptive_computation_time,
    correctness_loss,
    divergence_from_prior,
    entropy,
    stop_log_probabilities,
)
from agentforge.losses.linear_cross_entropy import head_cross_entropy
from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.steps import StepStates

IGNORED = -100


@dataclass
class _Trained:
    """What lies at the N trained positions.

    Attributes:
        hidden: K tensors `(N, D)`.
        targets: `(N,)`.
        halting_logits: `(N, K)`.
        sampled: the positions `(M,)` on which the losses of the iterations before the last are computed.
        scale: one over their share of all, by which their sums are multiplied.
    """

    hidden: list[Tensor]
    targets: Tensor
    halting_logits: Tensor | None
    sampled: Tensor
    scale: float


def summed_loss(
    config: CognateConfig, steps: StepStates, head: nn.Module, labels: Tensor, *, gate_weight: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss summed over the trained tokens, and detached sums by name; ``tokens`` says how many there are.

    Args:
        config: of the model.
        steps: `(B, T)` tokens after each iteration.
        head: of the language model.
        labels: `(B, T)`, -100 where nothing is trained; token t learns the label at t + 1.
        gate_weight: in place of the config's, where a run anneals it.
    """
    mask = labels[:, 1:] != IGNORED  # (B, T - 1)
    trained = _at(config, steps, labels, mask)
    total, parts = _language(config, trained, head)
    if steps.memory_share.shape[-1]:
        shares, tokens = _row_means(steps.memory_share, mask), mask.sum(1)
        parts["loss_gate"] = share_floor_loss(shares, tokens, float(config.gate_floor))
        total = total + (config.gate_weight if gate_weight is None else gate_weight) * parts["loss_gate"]
        parts |= _memory_readings(steps, mask)
    parts["tokens"] = mask.sum()
    return total, {name: part.detach() for name, part in parts.items()}


def summed_cross_entropy(steps: StepStates, head: nn.Module, labels: Tensor, step: int = -1) -> Tensor:
    """Return the cross-entropy `(B,)` of each row after an iteration, summed over its tokens."""
    mask = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][mask]
    weights = torch.ones_like(targets, dtype=torch.float32)
    found = head_cross_entropy(head, steps.hidden[step][:, :-1][mask], targets, weights)
    rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(mask)[mask]
    return found.entropies.new_zeros(len(labels)).index_add_(0, rows, found.entropies)


def _at(config: CognateConfig, steps: StepStates, labels: Tensor, mask: Tensor) -> _Trained:
    def chosen(values: Tensor) -> Tensor:
        return values[:, :-1][mask]

    targets = labels[:, 1:][mask]
    logits = None if steps.halting_logits is None else chosen(steps.halting_logits)
    hidden = [chosen(states) for states in (steps.hidden if logits is not None else steps.hidden[-1:])]
    share = float(config.step_loss_share)
    sampled = torch.arange(len(targets), device=targets.device)
    if share < 1 and logits is not None:
        # From torch's generator, which Trainer saves and restores: a resumed run draws the same positions.
        sampled = sampled[torch.rand(len(targets), device=targets.device) < share]
    return _Trained(hidden, targets, logits, sampled, 1 / share)


def _language(config: CognateConfig, trained: _Trained, head: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Return cross-entropy and halting, without the gate."""
    logits, last = trained.halting_logits, trained.hidden[-1]
    if logits is None:
        plain = head_cross_entropy(head, last, trained.targets, torch.ones_like(trained.targets, dtype=torch.float32))
        return plain.loss, {"loss_ce": plain.loss}
    log_stops = stop_log_probabilities(logits)  # (N, K)
    stops = log_stops.exp()
    act = adaptive_computation_time(stops, 1 - _act_threshold(config)) if config.halting == "act" else None
    weights = stops if act is None else act.probabilities
    # One call for the heads of all iterations, the last one first: it has one gradient for the head's matrix.
    n, m = len(trained.targets), len(trained.sampled)
    found = head_cross_entropy(
        head,
        torch.cat([last, *(states[trained.sampled] for states in trained.hidden[:-1])]),
        torch.cat([trained.targets, *[trained.targets[trained.sampled]] * (len(trained.hidden) - 1)]),
        torch.cat(
            [
                0.5 + 0.5 * weights[:, -1],
                *(0.5 * trained.scale * step for step in weights[trained.sampled, :-1].unbind(1)),
            ]
        ),
    )
    entropies_last = found.entropies[:n].sum()
    right = found.right[n:].view(-1, m).T  # (M, K - 1)
    cost = _cost(config, log_stops, act) + _guesses(config, trained, right, found.right[:n])
    total = found.loss + cost
    parts = {"loss_ce": entropies_last, "loss_act": total - entropies_last}
    return total, parts | _halting_readings(logits, log_stops)


def _act_threshold(config: CognateConfig) -> float:
    """Return the sum of units at which ACT stops: that at which the model will, if it is to."""
    return 0.99 if config.exit_threshold is None else float(config.exit_threshold)


def _cost(config: CognateConfig, log_stops: Tensor, act: Act | None) -> Tensor:
    """Return the price of the distribution over steps."""
    if act is not None:
        return config.halting_weight * act.ponder_cost
    if config.halting == "pondernet":
        return config.halting_weight * divergence_from_prior(log_stops, float(config.halting_prior))
    return -config.entropy_weight * entropy(log_stops).sum()


def _guesses(config: CognateConfig, trained: _Trained, right: Tensor, right_last: Tensor) -> Tensor:
    """Return TRM's correctness loss of all iterations, those before the last from the sampled positions."""
    assert trained.halting_logits is not None
    if not config.correctness_weight:
        return trained.halting_logits.new_zeros(())
    before = correctness_loss(trained.halting_logits[trained.sampled, :-1], right)
    last = correctness_loss(trained.halting_logits[:, -1:], right_last[:, None])
    return config.correctness_weight * (trained.scale * before + last)


def _halting_readings(logits: Tensor, log_stops: Tensor) -> dict[str, Tensor]:
    """Return sums over tokens of what halting looks like; the last iteration's logit decides nothing, and is left out.

    The square is there for the standard deviation: a mean over batches of deviations would not be one over tokens.
    """
    with torch.no_grad():
        rates = torch.sigmoid(logits[:, :-1].float())
        number = torch.arange(1, logits.shape[1] + 1, device=logits.device)
        return {
            "act/avg_halting_steps": (log_stops.exp() * number).sum(),
            "act/halt_prob_mean": rates.mean(1).sum(),
            "act/halt_prob_square": rates.square().mean(1).sum(),
            "act/halt_entropy": entropy(log_stops).sum(),
        }


def _memory_readings(steps: StepStates, mask: Tensor) -> dict[str, Tensor]:
    """Return sums over tokens of the memory's readings, the mean over layers of each token."""

    def summed(values: Tensor) -> Tensor:
        return values.detach()[:, :-1][mask].float().mean(-1).sum()

    return {
        "ltm/gate_mean": summed(steps.memory_share),
        "ltm/surprise_mean": summed(steps.surprise),
        "ltm/decay_mean": summed(steps.decay),
    }


def _row_means(values: Tensor, mask: Tensor) -> Tensor:
    """Return the means `(B, L)` over each row's trained positions; 0 where there is none."""
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values[:, :-1] * weights).sum(1) / weights.sum(1).clamp(min=1)
