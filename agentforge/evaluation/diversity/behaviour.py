"""How one model reads rows: its logits, and what its system can tell of how it came to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agentforge.evaluation.losses.decoding_speed import Decode
from agentforge.systems.registry import answer, concerned


@dataclass(frozen=True)
class Reading:
    """One model on one batch.

    Attributes:
        logits: (B, T, V).
        quantities: by name (B, T): what the model says of each token that it read, such as its ``steps``.
    """

    logits: Tensor
    quantities: Mapping[str, Tensor] = field(default_factory=dict)


class Behaviour:
    """A model of any kind. A system's subclass also tells what only its own models can tell.

    Attributes:
        units: of the quantities that `read` returns, by name; for people.
    """

    units: Mapping[str, str] = {}

    def __init__(self, model: Any) -> None:
        self.model = model

    def read(self, inputs: Mapping[str, Any]) -> Reading:
        """Read a batch.

        Args:
            inputs: ``input_ids`` and ``attention_mask`` (B, T), padded on the right.
        """
        return Reading(self.model(**inputs).logits)

    def decoder(self) -> Decode:
        """Return what continues a prompt greedily, as a user of the model would let it."""

        def decode(ids: Tensor, new: int) -> Any:
            mask = torch.ones_like(ids)
            options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
            return self.model.generate(ids, attention_mask=mask, **options)

        return decode


def behaviour_of(model: Any) -> Behaviour:
    """Return how a model is read: as its system says, else by its logits alone."""
    return answer("behaviour", concerned(model.config.to_dict(), {}), model) or Behaviour(model)
