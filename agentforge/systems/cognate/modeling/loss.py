"""What a Cognate learns from: one function for the forward pass with labels and for the house's objective.

    loss = loss_ce + loss_act + weight * loss_gate

    loss_ce     cross-entropy of the answer: after the last iteration, or of ACT the mean state
    loss_act    what halting adds. The price of the halting probabilities p by `config.halting`: ACT's ponder cost,
                PonderNet's divergence, LoopLM's entropy; and TRM's guess whether a step is right. But for ACT, half the
                weight also moves from the last iteration to where tokens would stop, (E_p[CE] - CE_K) / 2: a step that
                is never trained alone is not worth stopping at, and a model without an exit threshold still reads the
                last one, which must not be forgotten when its share of p has fallen to nothing.
    loss_gate   how far the memory's share is below the floor

All of them are sums over tokens, with the numbers that a run is watched by beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agentforge.losses.gates import share_floor_loss
from agentforge.losses.halting import (
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
        answer: `(N, D)`.
        hidden: K tensors `(N, D)`.
        targets: `(N,)`.
        halting_logits: `(N, K)`.
        sampled: the positions `(M,)` on which the losses of the iterations before the last are computed.
        scale: one over their share of all, by which their sums are multiplied.
    """

    answer: Tensor
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


def answer_loss(states: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    """Return the cross-entropy of states `(B, T, D)` that the head reads, summed over all tokens, with gradient."""
    mask = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][mask]
    return head_cross_entropy(head, states[:, :-1][mask], targets, torch.ones_like(targets, dtype=torch.float32)).loss


def summed_cross_entropy(states: Tensor, head: nn.Module, labels: Tensor) -> Tensor:
    """Return the cross-entropy of states `(B, T, D)` that the head reads, summed over each row's tokens, `(B,)`."""
    mask = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][mask]
    weights = torch.ones_like(targets, dtype=torch.float32)
    found = head_cross_entropy(head, states[:, :-1][mask], targets, weights)
    rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(mask)[mask]
    return found.entropies.new_zeros(len(labels)).index_add_(0, rows, found.entropies)


def _at(config: CognateConfig, steps: StepStates, labels: Tensor, mask: Tensor) -> _Trained:
    def chosen(values: Tensor) -> Tensor:
        return values[:, :-1][mask]

    targets = labels[:, 1:][mask]
    logits = None if steps.halting_logits is None else chosen(steps.halting_logits)
    hidden = [] if logits is None else [chosen(states) for states in steps.hidden]
    share = float(config.step_loss_share)
    sampled = torch.arange(len(targets), device=targets.device)
    if share < 1 and logits is not None:
        # From torch's generator, which Trainer saves and restores: a resumed run draws the same positions.
        sampled = sampled[torch.rand(len(targets), device=targets.device) < share]
    return _Trained(chosen(steps.answer), hidden, targets, logits, sampled, 1 / share)


def _language(config: CognateConfig, trained: _Trained, head: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Return cross-entropy and halting, without the gate."""
    logits = trained.halting_logits
    if logits is None or config.halting == "act":
        ones = torch.ones_like(trained.targets, dtype=torch.float32)
        whole = head_cross_entropy(head, trained.answer, trained.targets, ones)
        if logits is None:
            return whole.loss, {"loss_ce": whole.loss}
        act = adaptive_computation_time(logits)
        total, entropies = whole.loss + config.halting_weight * act.ponder_cost, whole.entropies.sum()
        right = _right(trained, head) if config.correctness_weight else None
        probabilities = act.probabilities
    else:
        log_stops = stop_log_probabilities(logits)  # (N, K)
        probabilities = log_stops.exp()
        total, entropies, right = _expected(trained, head, probabilities)
        total = total + _price(config, log_stops)
    if config.correctness_weight:
        assert right is not None
        guesses = correctness_loss(logits[trained.sampled], right)
        total = total + config.correctness_weight * trained.scale * guesses
    parts = {"loss_ce": entropies, "loss_act": total - entropies}
    return total, parts | _halting_readings(logits, probabilities.detach())


def _expected(trained: _Trained, head: nn.Module, probabilities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(CE_K + E_p[CE]) / 2`` and CE_K, summed, and of the sampled positions which steps are right `(M, K)`."""
    # One call for the heads of all iterations, the last one first, so that there is one gradient for the head's matrix.
    count, steps = len(trained.targets), len(trained.hidden)
    sampled = trained.sampled
    found = head_cross_entropy(
        head,
        torch.cat([trained.hidden[-1], *(states[sampled] for states in trained.hidden[:-1])]),
        torch.cat([trained.targets, *[trained.targets[sampled]] * (steps - 1)]),
        0.5
        * torch.cat([1 + probabilities[:, -1], *(trained.scale * p for p in probabilities[sampled, :-1].unbind(1))]),
    )
    before = found.right[count:].view(steps - 1, len(sampled))
    right = torch.cat([before, found.right[:count][sampled][None]]).T
    return found.loss, found.entropies[:count].sum(), right


@torch.no_grad()
def _right(trained: _Trained, head: nn.Module) -> Tensor:
    """Return of the sampled positions at which steps the likeliest token is the true one, `(M, K)`."""
    targets = trained.targets[trained.sampled]
    nothing = torch.zeros_like(targets, dtype=torch.float32)
    found = [head_cross_entropy(head, states[trained.sampled], targets, nothing).right for states in trained.hidden]
    return torch.stack(found, -1)


def _price(config: CognateConfig, log_stops: Tensor) -> Tensor:
    if config.halting == "pondernet":
        return config.halting_weight * divergence_from_prior(log_stops, float(config.halting_prior))
    return -config.entropy_weight * entropy(log_stops).sum()


def _halting_readings(logits: Tensor, probabilities: Tensor) -> dict[str, Tensor]:
    """Return sums over tokens of what halting looks like; the last iteration's logit decides nothing, and is left out.

    The square is there for the standard deviation: a mean over batches of deviations would not be one over tokens. As
    doubles, for the deviation is a small difference of large sums.
    """
    rates = torch.sigmoid(logits.detach()[:, :-1].double())
    number = torch.arange(1, logits.shape[1] + 1, device=logits.device)
    return {
        "act/avg_halting_steps": (probabilities * number).sum(),
        "act/halt_prob_mean": rates.mean(1).sum(),
        "act/halt_prob_square": rates.square().mean(1).sum(),
        "act/halt_entropy": torch.special.entr(probabilities).sum(),
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
