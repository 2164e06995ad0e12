"""What a Cognate tells of how it read each token: how long it thought, and how much of it came from its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from agentforge.evaluation.diversity.behaviour import Behaviour, Reading
from agentforge.systems.cognate.checkpoint_types import OWN_TYPE
from agentforge.systems.cognate.modeling.work import counted_work


def behaviour(model: Any) -> CognateBehaviour | None:
    """Return how a Cognate is read; None: the model is another's."""
    return CognateBehaviour(model) if model.config.model_type == OWN_TYPE else None


class CognateBehaviour(Behaviour):
    """A Cognate as it is configured, with its own exit threshold."""

    units: Mapping[str, str] = {
        "steps": "iterations a token",
        "memory": "share of what the layers write",
        "mflops": "MFLOP a token",
    }

    def read(self, inputs: Mapping[str, Any]) -> Reading:
        """Read a batch; the quantities are `steps`, `memory` and `mflops`."""
        with counted_work() as work:
            states = self.model.model.steps(**inputs)
            logits = self.model.lm_head(states.answer)
        steps = states.halting_steps.float()
        # Counted where they are executed, so for the batch as a whole: what a halted token still costs (keys and values
        # for those that think on) is in it, and each token has an equal share.
        mflops = work.flops / 1e6 / float(inputs["attention_mask"].sum())
        # Layers without a memory write none of it: a model with half of the memories uses half as much.
        memory = states.memory_share.float().sum(-1) / self.model.config.num_hidden_layers
        return Reading(logits, {"steps": steps, "memory": memory, "mflops": torch.full_like(steps, mflops)})
