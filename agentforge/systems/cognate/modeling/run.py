"""One run of a layer: what it reads of other tokens and what it leaves behind for later ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentforge.systems.cognate.modeling.active import Active, Frozen
from agentforge.systems.cognate.modeling.cache import Slot
from agentforge.systems.cognate.modeling.context import Context
from agentforge.systems.cognate.modeling.neural_memory import NeuralMemory


@dataclass
class Run:
    """One run of one layer.

    Attributes:
        context: of the tokens that are computed.
        slot: its place in the cache; None: there is none.
        active: the tokens that are computed; None: all.
        keep: what was read of each token has to be kept, because some may stop here.
        frozen: what was read of each token before, and behind the run what was read now.
    """

    context: Context
    slot: Slot | None = None
    active: Active | None = None
    keep: bool = False
    frozen: Frozen | None = None

    def remember(self, normed: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values `(B, heads, S + T, head_dim)` of all tokens, given those that are computed."""
        if self.active is not None and self.frozen is not None:
            before = self.frozen
            normed = self.active.put(before.normed, normed)
            keys = self.active.put(before.keys, keys.transpose(1, 2)).transpose(1, 2)
            values = self.active.put(before.values, values.transpose(1, 2)).transpose(1, 2)
        if self.keep:
            kept = Frozen(normed, keys.transpose(1, 2), values.transpose(1, 2))
            # In training a token that has stopped is a constant to those that go on: it learned where it was computed.
            # And a layer that is computed again for its gradient (checkpointing) finds here what it found before.
            self.frozen = Frozen(kept.normed.detach(), kept.keys.detach(), kept.values.detach())
        return (keys, values) if self.slot is None else self.slot.update(keys, values)

    def through_memory(self, memory: NeuralMemory, normed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Write all tokens to the memory, and return what the computed ones read there, `(B, T, D)` or `(1, N, D)`."""
        context, active = self.context, self.active
        everything = normed if active is None or self.frozen is None else self.frozen.normed
        before = None if self.slot is None else self.slot.memory
        read, after, watched = memory(everything, before, starts=context.starts, padding=context.padding)
        if self.slot is not None:
            self.slot.memory = after
        if active is None:
            return read, watched
        return active.take(read), {name: active.take(value) for name, value in watched.items()}
