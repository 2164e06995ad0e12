"""What a step of training computes, and what an evaluation reads: the model's own loss, without its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agentforge.losses.gates import annealed
from agentforge.systems.cognate.modeling.loss import IGNORED, summed_cross_entropy, summed_loss
from agentforge.systems.cognate.training.metrics import evaluation_figures, training_figures
from agentforge.trainers.supervised.additions import Moment, Objective


class CognateObjective(Objective):
    """The loss of `modeling.loss`, with the gate's weight annealed.

    Attributes:
        model: that is trained.
    """

    def __init__(self, model: Any, *, gate_annealing: float = 1.0, bytes_of: Tensor | None = None) -> None:
        """Keep the model.

        Args:
            model: `CognateForCausalLM`, or what LoRA made of it.
            gate_annealing: share of the run after which the gate's loss has no weight any more.
            bytes_of: `(V,)`, bytes of text that each token stands for; None: the tokenizer's tokens are no bytes.
        """
        super().__init__()
        self.model = model
        self.gate_annealing = gate_annealing
        self._bytes_of = (bytes_of,)  # in a tuple: no part of any state

    def forward(
        self,
        moment: Moment,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts, summed over the trained tokens; the arguments are those of `Objective`."""
        steps = self.model.model.steps(input_ids, attention_mask, position_ids, use_cache=False)
        weight = annealed(float(self.model.config.gate_weight), moment.progress / self.gate_annealing)
        return summed_loss(self.model.config, steps, self.model.lm_head, labels, gate_weight=weight)

    def evaluate(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the sums of each row `(B,)` that `evaluation_figures` reads."""
        model, labels = self.model, inputs["labels"]
        steps = model.model.steps(
            inputs["input_ids"], inputs.get("attention_mask"), inputs.get("position_ids"), use_cache=True
        )
        trained = labels[:, 1:] != IGNORED
        found = {"tokens": trained.sum(1), "loss": summed_cross_entropy(steps.answer, model.lm_head, labels)}
        if model.config.max_recursions > 1:
            found["first"] = summed_cross_entropy(steps.hidden[0], model.lm_head, labels)
        if (bytes_of := self._bytes_of[0]) is not None:
            found["bytes"] = (bytes_of.to(labels.device)[labels[:, 1:].clamp(min=0)] * trained).sum(1)
        states = [slot.memory for slot in steps.past_key_values.slots if slot.memory is not None]
        if states:
            # One row of each batch: a singular value decomposition for each head of each slot is dear.
            first = torch.zeros_like(labels[:1, 0])
            ranks = [state.index_select(first).effective_rank() / model.config.memory_head_dim for state in states]
            found["usage"] = torch.zeros(len(labels), device=labels.device)
            found["usage"][0] = torch.stack(ranks).mean()
            found["usage_rows"] = torch.zeros_like(found["usage"])
            found["usage_rows"][0] = 1.0
        return found

    def figures(self, means: dict[str, float]) -> dict[str, float]:
        """Return what is logged of sums that were divided by the tokens."""
        return evaluation_figures(means) if "loss" in means else training_figures(means)
