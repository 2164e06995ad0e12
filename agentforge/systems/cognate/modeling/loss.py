"""What a Cognate learns from: one function for the forward pass with labels and for the house's objective."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.steps import StepStates


def summed_loss(config: CognateConfig, steps: StepStates, head: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss summed over the trained tokens, and how many there are.

    Args:
        config: of the model.
        steps: `(B, T)` tokens in each iteration.
        head: `(V, D)`.
        labels: `(B, T)`, -100 where nothing is trained; token t learns the label at t + 1.
    """
    targets = labels[:, 1:]
    trained = targets != -100
    wanted = targets[trained]

    def entropies(hidden: Tensor) -> Tensor:
        return functional.cross_entropy((hidden[:, :-1][trained] @ head.T).float(), wanted, reduction="none")

    if steps.halting_logits is None:
        return entropies(steps.hidden[-1]).sum(), trained.sum()
    losses = torch.stack([entropies(hidden) for hidden in steps.hidden], -1)  # (N, K)
    scores = steps.halting_logits[:, :-1][trained].float()[..., :-1]
    going_on = functional.pad(functional.logsigmoid(-scores).cumsum(-1), (1, 0))
    logs = going_on + functional.pad(functional.logsigmoid(scores), (0, 1))
    entropy = -(logs.exp() * logs).sum()
    return (logs.exp() * losses).sum() - config.entropy_weight * entropy, trained.sum()
