"""Which half of a trunk's memory it needs least: half of each memory's heads, or the memories of half of its layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from agentforge.errors import UserError
from agentforge.evaluation.losses.loss_results import FULL, interval
from agentforge.evaluation.losses.measure import HeldOut, LossReadings, measure
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.surgery.resize import layer_at, memories_of, with_heads, with_memories

log = logging.getLogger(__name__)

CONFIDENCE = 0.8


@dataclass(frozen=True)
class Cost:
    """What a smaller memory costs, in nats a token on eval rows.

    Attributes:
        what: that was cut, for people.
        loss: of the smaller model.
        change: against the trunk on the same rows: value, low, high.
    """

    what: str
    loss: float
    change: dict[str, float]


class Trunk:
    """A trunk and rows to measure on.

    Args:
        model: in evaluation mode; its `exit_threshold` is the branch's.
        rows: token ids; every token but the first counts.
    """

    def __init__(self, model: CognateForCausalLM, rows: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.rows = HeldOut([list(row) for row in rows], [[True] * (len(row) - 1) for row in rows], None)
        self.sums = self._sums(model)

    def _sums(self, model: CognateForCausalLM) -> Any:
        return measure(LossReadings(model), self.rows).widths[FULL].loss

    @property
    def loss(self) -> float:
        """Of the trunk."""
        return float(self.sums.sum() / self.rows.tokens.sum())

    def cost(self, what: str, model: CognateForCausalLM) -> Cost:
        """Return what a smaller model costs."""
        sums, tokens = self._sums(model), self.rows.tokens
        change = interval(sums - self.sums, tokens, CONFIDENCE)
        log.info("branch: %s: loss %.4f -> %.4f", what, self.loss, self.loss + change["value"])
        return Cost(what, float(sums.sum() / tokens.sum()), change)

    def halved(self) -> tuple[CognateForCausalLM, list[Cost]]:
        """Return the better half, and what each of the candidates costs.

        Raises:
            UserError: there is nothing to halve.
        """
        config = self.model.config
        candidates: list[tuple[str, CognateForCausalLM]] = []
        if config.memory_heads > 1 and memories_of(config):
            kept = config.memory_heads // 2
            candidates.append((f"{kept} of {config.memory_heads} heads", self.with_fewer_heads(kept)))
        if len(memories_of(config)) > 1:
            layers = self.needed_layers((len(memories_of(config)) + 1) // 2)
            candidates.append((f"memories in layers {', '.join(map(str, layers))}", self.with_layers(layers)))
        if not candidates:
            raise UserError("branch: the trunk's memory is a single head in a single layer; there is no half of it")
        costs = [self.cost(what, model) for what, model in candidates]
        best = min(range(len(costs)), key=lambda place: costs[place].loss)
        return candidates[best][1], costs

    def with_fewer_heads(self, count: int) -> CognateForCausalLM:
        """Return the model with the heads of each memory that write most."""
        energy = self._energies()
        heads = self.model.config.memory_heads
        kept = {
            layer: sorted(torch.topk(found, count).indices.tolist()) if count < heads else list(range(heads))
            for layer, found in energy.items()
        }
        return with_heads(self.model, kept)

    def with_layers(self, layers: Sequence[int]) -> CognateForCausalLM:
        """Return the model with memories in these layers, and attention scaled where they went."""
        gone = [layer for layer in memories_of(self.model.config) if layer not in layers]
        return with_memories(self.model, layers, {layer: self.scales[layer] for layer in gone})

    def needed_layers(self, count: int) -> list[int]:
        """Return the layers whose memory costs most when it alone is taken out."""
        having = memories_of(self.model.config)
        costs = {layer: self._sums(self.with_layers([one for one in having if one != layer])).sum() for layer in having}
        return sorted(sorted(having, key=lambda layer: -costs[layer])[:count])

    def _energies(self) -> dict[int, Tensor]:
        """Return by layer `(heads,)`: the energy of what each head of its memory writes."""
        found: dict[int, Tensor] = {}
        heads = self.model.config.memory_heads

        def hook(layer: int) -> Callable[..., None]:
            def note(module: Any, given: tuple[Tensor, ...], _: Tensor) -> None:
                parts = given[0].unflatten(-1, (heads, -1))
                weights = module.weight.unflatten(-1, (heads, -1))
                written = torch.einsum("...hd,ohd->...ho", parts, weights).float()
                energy = written.square().flatten(0, -3).sum((0, 2))
                found[layer] = found.get(layer, torch.zeros_like(energy)) + energy

            return note

        with self._watched({layer: layer_at(self.model, layer).memory.o_proj for layer in self._having}, hook):
            self._read()
        return found

    @property
    def _having(self) -> list[int]:
        return memories_of(self.model.config)

    @cached_property
    def scales(self) -> dict[int, Tensor]:
        """By layer `(hidden_size,)`: what attention's output times this is closest to what gate and memory made of it.

        The least-squares factor of each channel, ``sum(a * mixed) / sum(a * a)`` over all tokens and runs.
        """
        sums: dict[int, tuple[Tensor, Tensor]] = {}

        def hook(layer: int) -> Callable[..., None]:
            def note(_: Any, given: tuple[Tensor, ...], made: tuple[Tensor, Tensor]) -> None:
                attended, mixed = given[0].float().flatten(0, 1), made[0].float().flatten(0, 1)
                both, own = (attended * mixed).sum(0), attended.square().sum(0)
                before = sums.get(layer, (torch.zeros_like(both), torch.zeros_like(own)))
                sums[layer] = before[0] + both, before[1] + own

            return note

        with self._watched({layer: layer_at(self.model, layer).gate for layer in self._having}, hook):
            self._read()
        return {layer: both / own.clamp_min(1e-12) for layer, (both, own) in sums.items()}

    @contextmanager
    def _watched(self, modules: dict[int, Any], hook: Callable[[int], Callable[..., None]]) -> Iterator[None]:
        handles = [module.register_forward_hook(hook(layer)) for layer, module in modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _read(self) -> None:
        # One row at a time: hooks would see the padding of a batch as if it were text.
        measure(LossReadings(self.model), self.rows, batch_size=1)
