"""What a step of training computes: the next byte's loss, in nats to train on and in bits for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from agentforge.trainers.supervised.additions import Moment, Objective

IGNORED = -100
LN2 = math.log(2)


class ByteObjective(Objective):
    """The model's own loss, summed; its mean in bits is logged as ``bpc``, for one token is one byte."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        moment: Moment,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts, summed over the trained bytes; the arguments are those of `Objective`."""
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": False}
        one = torch.ones((), device=labels.device)
        loss = self.model(input_ids=input_ids, labels=labels, num_items_in_batch=one, **inputs).loss
        return loss, {"loss_nats": loss.detach(), "tokens": (labels[:, 1:] != IGNORED).sum()}

    def evaluate(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the sums of each row `(B,)`."""
        labels = inputs["labels"]
        shown = {name: inputs.get(name) for name in ("attention_mask", "position_ids")}
        logits = self.model(input_ids=inputs["input_ids"], use_cache=False, **shown).logits[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
        )
        return {"loss": losses.sum(1), "tokens": (labels[:, 1:] != IGNORED).sum(1)}

    def figures(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return the means in bits per byte."""
        if "loss_nats" in means:
            return {"bpc": means["loss_nats"] / LN2}
        return {"eval_bpc": means["loss"] / LN2}
