"""A forward pass through prelude and loop, in which tokens may stop on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from agentforge.systems.cognate.modeling.active import Active, Frozen
from agentforge.systems.cognate.modeling.cache import CognateCache, Slot
from agentforge.systems.cognate.modeling.context import Context
from agentforge.systems.cognate.modeling.halting import has_halted
from agentforge.systems.cognate.modeling.layer import rms_norm
from agentforge.systems.cognate.modeling.readings import Collected, Readings
from agentforge.systems.cognate.modeling.recursion import carried, iterate, learns
from agentforge.systems.cognate.modeling.run import Run
from agentforge.systems.cognate.modeling.work import count

if TYPE_CHECKING:
    from agentforge.systems.cognate.modeling.modeling import CognateModel


@dataclass
class Thought:
    """What a pass arrived at: see `steps.StepStates`."""

    hidden: tuple[Tensor, ...]
    halting_logits: Tensor | None
    steps: Tensor


class Pass:
    """One forward pass.

    Args:
        model: whose layers are run.
        context: of the tokens.
        cache: gets keys, values and memory of every run; None: nothing is kept.
        threshold: a token stops at this cumulative halting probability; None: none stops early.
    """

    def __init__(
        self, model: CognateModel, context: Context, cache: CognateCache | None, threshold: float | None
    ) -> None:
        self.model, self.config = model, model.config
        self.context, self.cache, self.threshold = context, cache, threshold
        self.frozen: dict[tuple[int, int], Frozen] = {}  # by call of the core and layer
        self.readings = Collected()
        self.read: list[Tensor] = []

    def prelude(self, x: Tensor) -> Tensor:
        """Return what the loop works on, `(B, T, D)`, of embeddings."""
        self.read.append(x)
        for layer, module in enumerate(self.model.prelude):
            run = Run(self.context, self._slot(layer))
            x, *readings = module(x, self.model.persistent, run)
            self.read.append(x)
            self.readings.add(layer, Readings(*readings), None)
            count(x.shape[0] * x.shape[1], core=False)
        return rms_norm(x, self.config.rms_norm_eps)

    def think(self, x: Tensor) -> Thought:
        """Return the hidden states behind each iteration, of what the prelude read `(B, T, D)`."""
        states = tuple(initial.to(x.dtype).expand_as(x) for initial in self.model.initial)
        hidden: list[Tensor] = []
        logits: list[Tensor] = []
        steps = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
        active: Active | None = None
        for iteration in range(self.config.max_recursions):
            with torch.set_grad_enabled(learns(self.config, iteration)):
                states, read = self._iteration(iteration, states, x, active, hidden)
                hidden.append(read)
            if self.model.halting_head is not None:
                logits.append(self.model.halting_head(read))
            states = carried(self.config, states)
            if iteration == self.config.max_recursions - 1:
                break
            if self.threshold is None:
                steps = steps + 1
                continue
            thinking = ~has_halted(self.config, torch.cat(logits, -1), self.threshold)
            if self.context.padding is not None:
                thinking = thinking & ~self.context.padding
            steps = steps + thinking
            active = Active(thinking, self.context)
            if not len(active) and self.cache is None:
                missing = self.config.max_recursions - 1 - iteration
                hidden, logits = hidden + hidden[-1:] * missing, logits + logits[-1:] * missing
                break
        return Thought(tuple(hidden), torch.cat(logits, -1) if logits else None, steps)

    def _iteration(
        self, iteration: int, states: tuple[Tensor, ...], x: Tensor, active: Active | None, hidden: list[Tensor]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return states and hidden states `(B, T, D)`; those of tokens that are not active stay as they are."""

        def core(h: Tensor, call: int) -> Tensor:
            return self._core(h, iteration, call, active)

        if active is None:
            after = iterate(self.config, core, states, x)
            return after, self.model.norm(after[-1])
        after = iterate(self.config, core, tuple(active.take(state) for state in states), active.take(x))
        read = active.put(hidden[-1], self.model.norm(after[-1]))
        return tuple(active.put(old, new) for old, new in zip(states, after, strict=True)), read

    def _core(self, x: Tensor, iteration: int, call: int, active: Active | None) -> Tensor:
        prelude = self.config.num_prelude_layers
        runs_before = prelude + (iteration * self.config.core_calls + call) * self.config.num_core_layers
        for index, module in enumerate(self.model.core):
            run = Run(
                self.context if active is None else active.context,
                self._slot(runs_before + index),
                active,
                self.threshold is not None,
                self.frozen.get((call, index)),
            )
            x, *readings = module(x, self.model.persistent, run)
            if run.frozen is not None:
                self.frozen[call, index] = run.frozen
            self.readings.add(prelude + index, Readings(*readings), active)
            count(x.shape[0] * x.shape[1], core=True)
        return x

    def _slot(self, index: int) -> Slot | None:
        return None if self.cache is None else self.cache.slots[index]
