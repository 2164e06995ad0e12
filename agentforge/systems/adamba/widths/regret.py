"""What a narrower width loses against the full model on what follows a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.systems.adamba.exits.calibration import counted_tokens
from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.widths.submodels import Model, submodel


@dataclass
class Regrets:
    """Measured on N prompts at W widths.

    Attributes:
        features: `(N, D)` what the narrowest width makes of each prompt.
        regrets: `(N, W)` loss minus the full model's, in nats a token.
    """

    features: Tensor
    regrets: Tensor

    def part(self, rows: Tensor) -> Regrets:
        """Return some of the rows."""
        return Regrets(self.features[rows], self.regrets[rows])


@torch.no_grad()
def measure_regrets(model: Model, batches: Iterable[Mapping[str, Tensor]], widths: Sequence[Fraction]) -> Regrets:
    """Measure every width on the same rows.

    A row's prompt is what stands before its first label. Without labels the first half of its tokens is the prompt and
    the second half is what follows.

    Args:
        model: the full model, in evaluation mode.
        batches: ``input_ids`` `(B, T)`, and ``attention_mask`` and ``labels`` where there are any; rows without a
            prompt or without anything behind it are left out.
        widths: narrowest first, the last is 1.

    Raises:
        UserError: there are no rows.
    """
    features, losses = [], []
    for batch in batches:
        ids = batch["input_ids"].to(model.device)
        mask = batch.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.to(ids.device)
        scored = scored_tokens(batch).to(ids.device)
        # The prompt ends where the first scored token is predicted.
        prompt = mask.bool() & (torch.nn.functional.pad(scored, (1, 0)).cumsum(1) == 0)
        usable = prompt.any(1) & scored.any(1)
        row_losses = []
        # All widths read the same rows, so the width is all that differs.
        for width in widths:
            narrow = submodel(model, width)
            hidden = narrow.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
            if width == widths[0]:
                features.append(prompt_features(hidden, prompt)[usable].cpu())
            row_losses.append(mean_loss(head(narrow, hidden[:, :-1]), ids[:, 1:], scored)[usable])
        losses.append(torch.stack(row_losses, 1).cpu())
    if not losses:
        raise UserError("there are no held-out rows to measure regrets on")
    table = torch.cat(losses)
    return Regrets(torch.cat(features), table - table[:, -1:])


def scored_tokens(batch: Mapping[str, Tensor]) -> Tensor:
    """Return which of the first T-1 tokens predict something that follows the prompt: `(B, T - 1)` bool."""
    counted = counted_tokens(batch)
    if batch.get("labels") is not None:
        return counted
    return counted & (2 * counted.cumsum(1) > counted.sum(1, keepdim=True))


def mean_loss(logits: Tensor, targets: Tensor, scored: Tensor) -> Tensor:
    """Return each row's mean cross-entropy `(B)` over its scored tokens; logits are `(B, T, V)`."""
    loss = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return (loss * scored).sum(1) / scored.sum(1).clamp(min=1)


def prompt_features(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean `(B, D)` of hidden states `(B, T, D)` over the tokens of the mask `(B, T)`."""
    weights = mask[..., None].to(hidden.dtype)
    return ((hidden * weights).sum(1) / weights.sum(1).clamp(min=1)).float()
