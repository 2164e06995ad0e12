"""What a step of nested training computes: full width, narrow widths, exits, gates and teacher in one forward pass."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from agentforge.losses.distillation import mixed_loss
from agentforge.losses.early_exit import exit_weights, layer_dropout, rotated
from agentforge.losses.gates import shadow_loss
from agentforge.losses.matryoshka import MIXED, inplace_distillation, mix, sandwich
from agentforge.systems.adamba.exits.depth import hidden_after, leaving_out
from agentforge.systems.adamba.modeling.embedding_and_head import head
from agentforge.systems.adamba.recipe_sections import AdambaTrain
from agentforge.systems.adamba.widths.elastic import ElasticModel
from agentforge.trainers.batching import IGNORED
from agentforge.trainers.supervised.additions import Moment, Objective
from agentforge.trainers.supervised.sft import only_at

GATES = "exit_gates"
"""The gates are a module of the model under this name while it is trained, and then a file of this name beside it."""

# All logits of a step that are held at once, in fp32. Above it they are made in blocks, and again for the gradient.
MAX_LOGITS_BYTES = 2**30


@dataclass
class _States:
    """Hidden states behind the final norm, at the trained positions only: `(K, D)` each; of the teacher `(K, V)`."""

    full: Tensor
    narrow: list[tuple[str, Any, Tensor]]
    exits: dict[int, Tensor]
    teacher: Tensor | None


class NestedObjective(Objective):
    """The objective of all widths and exits of an Adamba.

    Attributes:
        elastic: the model that is trained, at every width.
    """

    def __init__(self, model: Any, train: AdambaTrain, *, seed: int, teacher: Any = None) -> None:
        super().__init__()
        self.elastic = ElasticModel(model)
        self.nested, self.exits, self.distill = train.nested, train.exits, train.distill
        self.widths = [Fraction(width) for width in train.nested.widths] if train.nested else []
        self.seed = seed
        self._teacher = (teacher,)  # in a tuple: frozen, neither saved nor wrapped

    def forward(
        self, moment: Moment, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its parts, summed over the trained tokens; the arguments are those of `Objective`."""
        trained = labels[:, 1:] != IGNORED  # (B, T-1)
        targets = labels[:, 1:][trained]  # (K,)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        states = self._states(moment, inputs, trained)
        loss, parts = self._in_blocks(states, targets)
        parts["tokens"] = torch.as_tensor(float(len(targets)), device=loss.device)
        return loss, {name: part.detach() for name, part in parts.items()}

    def _states(self, moment: Moment, inputs: dict[str, Any], trained: Tensor) -> _States:
        model, (teacher,) = self.elastic.full, self._teacher

        def chosen(hidden: Tensor) -> Tensor:
            return hidden[:, :-1][trained]

        exits = self._exits_of(moment)
        with leaving_out(model, self._kept(moment, inputs["input_ids"])), hidden_after(model, exits) as seen:
            full = chosen(model.model(**inputs).last_hidden_state)
        narrow = []
        for name, width in self._narrow_of(moment):
            small = self.elastic.at(width)
            narrow.append((name, small, chosen(small.model(**inputs).last_hidden_state)))
        at_exits = {exit: model.model.final_layernorm(chosen(seen[exit])) for exit in exits}
        if teacher is None:
            return _States(full, narrow, at_exits, None)
        # through its own forward: a teacher of any architecture, whatever it does behind its head
        with torch.no_grad(), only_at(teacher.get_output_embeddings(), trained):
            return _States(full, narrow, at_exits, teacher(**inputs).logits)

    def _narrow_of(self, moment: Moment) -> list[tuple[str, Any]]:
        """Return names and widths of what is trained beside the full width in this step."""
        if self.nested is None:
            return []
        nested, step = self.nested, moment.step
        drawn = sandwich(self.widths, count=nested.random, mixed=nested.mix_and_match, seed=self.seed, step=step)
        layers = len(self.elastic.full.model.layers)
        return [
            (MIXED, mix(self.widths, layers, seed=self.seed, step=step))
            if isinstance(width, str)
            else (str(width).replace("/", "_"), width)
            for width in drawn
        ]

    def _exits_of(self, moment: Moment) -> Sequence[int]:
        if self.exits is None:
            return []
        return rotated(self.exits.layers, moment.step) if self.exits.rotate else self.exits.layers

    def _kept(self, moment: Moment, input_ids: Tensor) -> Tensor | None:
        """Draw which rows run which layers `(L, B)`, from the generator that Trainer saves and restores."""
        if self.exits is None or not self.exits.layer_dropout:
            return None
        shares = layer_dropout(len(self.elastic.full.model.layers), self.exits.layer_dropout, moment.progress)
        skipped = torch.tensor(shares, device=input_ids.device)
        return torch.rand(len(shares), len(input_ids), device=input_ids.device) >= skipped[:, None]

    def _in_blocks(self, states: _States, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        heads = 1 + len(states.narrow) + len(states.exits) + (states.teacher is not None)
        vocabulary = self.elastic.full.config.vocab_size
        size = max(MAX_LOGITS_BYTES // (4 * heads * vocabulary), 1)
        if len(targets) <= size:
            return self._losses(states, targets)
        loss = targets.new_zeros((), dtype=torch.float32)
        parts: dict[str, Tensor] = {}
        for start in range(0, len(targets), size):
            rows = slice(start, start + size)
            block = _States(
                states.full[rows],
                [(name, model, hidden[rows]) for name, model, hidden in states.narrow],
                {exit: hidden[rows] for exit, hidden in states.exits.items()},
                None if states.teacher is None else states.teacher[rows],
            )
            made, found = checkpoint(self._losses, block, targets[rows], use_reentrant=False)
            loss = loss + made
            parts = {name: part + parts.get(name, 0) for name, part in found.items()}
        return loss, parts

    def _losses(self, states: _States, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        model = self.elastic.full
        parts: dict[str, Tensor] = {}
        full_logits = head(model, states.full)  # (K, V)
        weights = exit_weights(list(states.exits), len(model.model.layers), self.exits.scale if self.exits else 0.0)
        loss = self._full(full_logits, states.teacher, targets, weights[len(model.model.layers)], parts)
        gates = torch.zeros_like(loss)
        for exit, normed in states.exits.items():
            exit_logits = head(model, normed)
            entropy = _cross_entropy(exit_logits, targets)
            parts[f"loss/exit/{exit}"] = entropy
            loss = loss + weights[exit] * entropy
            gates = gates + self._gate(exit, normed, exit_logits, full_logits, parts)
        gates = gates + self._idle(states.exits)
        for name, small, hidden in states.narrow:
            assert self.nested is not None
            made, parts[f"loss/width/{name}"], parts[f"divergence/width/{name}"] = inplace_distillation(
                head(small, hidden),
                full_logits,
                targets,
                alpha=self.nested.alpha,
                temperature=self.nested.temperature,
            )
            loss = loss + made
        return loss / (1 + len(states.narrow)) + gates, parts

    def _full(
        self, logits: Tensor, teacher: Tensor | None, targets: Tensor, weight: float, parts: dict[str, Tensor]
    ) -> Tensor:
        if teacher is None or self.distill is None:
            parts["loss/width/1"] = _cross_entropy(logits, targets)
            return weight * parts["loss/width/1"]
        loss, parts["loss/width/1"], parts["divergence/teacher"] = mixed_loss(
            logits,
            teacher,
            targets,
            hard=weight,
            soft=weight * self.distill.weight,
            temperature=self.distill.temperature,
        )
        return loss

    def _idle(self, trained: Container[int]) -> Tensor | float:
        """Return a zero with gradient to the gates whose turn it is not: DDP waits for every parameter."""
        gates = getattr(self.elastic.full, GATES, {})
        idle = [gates[name] for name in gates if int(name) not in trained]
        return sum((0.0 * part.sum() for gate in idle for part in gate.parameters()), 0.0)

    def _gate(
        self, exit: int, normed: Tensor, exit_logits: Tensor, full_logits: Tensor, parts: dict[str, Tensor]
    ) -> Tensor:
        model = self.elastic.full
        if not hasattr(model, GATES):
            return torch.zeros_like(normed[:0].sum(), dtype=torch.float32)
        with torch.autocast(normed.device.type, enabled=False):
            scores = getattr(model, GATES)[str(exit)](normed.detach(), exit_logits.detach())  # (K,)
        shadow = shadow_loss(scores, exit_logits, full_logits)
        parts[f"loss/gate/{exit}"] = shadow.loss
        parts[f"agreement/exit/{exit}"] = shadow.agreed.float()
        parts[f"accuracy/gate/{exit}"] = shadow.right.float()
        return shadow.loss


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float(), targets, reduction="sum")
