"""What a step of a Cognate costs beyond its parameters: the core's further runs, the memory, the head at every step.

`plan` counts each weight once. Here a weight of the core is used many times, the memory multiplies tokens with
matrices that are no weights, and the head reads the state after each iteration. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentforge.planning.memory import BETWEEN_PROJECTIONS
from agentforge.planning.sizes import Shape
from agentforge.planning.step_work import StepWork
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of
from agentforge.systems.cognate.checkpoint_types import OWN_TYPE

TABLE = "CognateConfig"
CHUNK = 64
"""Tokens of a chunk of the memory's scan (`modeling.delta_rule`)."""
LOGITS_BLOCK = 2.0**27
"""Bytes of logits that the loss makes at once (`losses.linear_cross_entropy.BLOCK_BYTES`, which imports torch)."""
FORWARD, BACKWARD = 1.0, 2.0
"""A backward pass costs two forward passes: the gradient of the input, and that of the weight."""


def step_work(recipe: Recipe, shape: Shape) -> StepWork | None:
    """Return what a training step computes and keeps beside one use of each weight; None: it is no Cognate."""
    if shape.model_type != OWN_TYPE or shape.config is None:
        return None
    sizes = Sizes.of(json.loads(shape.config))
    length, window = recipe.row_length, min(sizes.sliding_window, recipe.row_length)
    learning = (sizes.max_recursions - sizes.no_grad_recursions) / sizes.max_recursions
    trained = FORWARD + BACKWARD * learning
    again = sum(sizes.runs(layer) - 1 for layer in range(sizes.layers))
    core_again = sum(
        (sizes.runs(layer) - 1) * (2 * sizes.layer_weights(layer) + 4 * sizes.width * window)
        for layer in range(sizes.layers)
    )
    scans = sum(sizes.runs(layer) * sizes.scan_flops(min(CHUNK, length)) for layer in sizes.memories)
    numbers = [sizes.runs(layer) * sizes.kept(layer) for layer in range(sizes.layers)]
    # What the house counts already: one run of each layer of the prelude, which is the list that its probe finds.
    counted = sum(sizes.kept(layer) for layer in range(sizes.num_prelude_layers))
    return StepWork(
        flops=trained * core_again + (FORWARD + BACKWARD) * scans,
        recomputed=core_again + scans + sum(2.0 * sizes.layer_weights(layer) for layer in sizes.core),
        head_flops=sizes.head_uses * 6.0 * sizes.vocab_size * sizes.hidden_size,
        activations=sum(numbers) - counted,
        checkpoints=sizes.hidden_size * again,
        in_blocks=True,
        block_bytes=LOGITS_BLOCK,
        undivided="a cognate's loss is a module of its own that reads the head's whole matrix",
    )


@dataclass(frozen=True)
class Sizes:
    """The fields of a config.json that decide how much there is to do; named as there."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_prelude_layers: int
    num_core_layers: int
    num_attention_heads: int
    head_dim: int
    sliding_window: int
    memory_heads: int
    memory_head_dim: int
    memory_layers: list[int] | None
    gate_rank: int
    recursion: str
    max_recursions: int
    micro_steps: int
    no_grad_recursions: int
    halting: str
    step_loss_share: float

    @classmethod
    def of(cls, config: dict[str, Any]) -> Sizes:
        """Return the sizes of a config.json; what it leaves out has the class's default."""
        values: dict[str, Any] = {name: field.get("default") for name, field in fields_of(TABLE).items()} | config
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})

    @property
    def layers(self) -> int:
        return self.num_prelude_layers + self.num_core_layers

    @property
    def core(self) -> range:
        return range(self.num_prelude_layers, self.layers)

    @property
    def memories(self) -> list[int]:
        """Layers that have a memory."""
        return [layer for layer in range(self.layers) if self.memory_layers is None or layer in self.memory_layers]

    @property
    def width(self) -> int:
        """Channels of all attention heads."""
        return self.num_attention_heads * self.head_dim

    @property
    def remembered(self) -> int:
        """Channels of all heads of a memory."""
        return self.memory_heads * self.memory_head_dim

    def runs(self, layer: int) -> int:
        """Return how often a token that takes all iterations runs a layer: z so many times, then y (`recursion`)."""
        calls = self.micro_steps + 1 if self.recursion == "trm" else 1
        return self.max_recursions * calls if layer in self.core else 1

    @property
    def head_uses(self) -> float:
        """How often the head reads a token beyond once, on average: after the steps before the last."""
        return 0.0 if self.halting == "none" else self.step_loss_share * (self.max_recursions - 1)

    def layer_weights(self, layer: int) -> int:
        """Return with how many weights of matrices a token is multiplied in one run of a layer."""
        weights = 4 * self.hidden_size * self.width + 3 * self.hidden_size * self.intermediate_size
        if layer in self.memories:
            weights += 4 * self.hidden_size * self.remembered + 3 * self.hidden_size * self.gate_rank
        return weights

    def scan_flops(self, chunk: int) -> float:
        """Return the operations a token of the gated delta rule, in chunks, of all heads of one memory.

        In a chunk of C tokens, with keys and values of size d: K K' and Q K' are 2 C d each. The inverse of the
        triangular system is 2/3 C^2, its products with values and with keys 4 C d, what is read of the chunk's own
        writes 2 C d. What is read of the state, corrected and written is 8 d^2, and the state from chunk to chunk
        2 d^3 / C.
        """
        d = self.memory_head_dim
        return self.memory_heads * (10 * chunk * d + 8 * d**2 + 2 * d**3 / chunk + 2 / 3 * chunk**2)

    def kept(self, layer: int) -> float:
        """Return the numbers a token that one run of a layer keeps for its backward pass.

        As `planning.memory` estimates it for any architecture: what goes into and comes out of each matrix, and half as
        much again for what is between them.
        """
        d, f = self.hidden_size, self.intermediate_size
        sides = 4 * (d + self.width) + 3 * (d + f)
        if layer in self.memories:
            # q, k, v and o; the gate's two matrices; and the scan, which keeps its chunks' decays and solutions
            sides += 4 * (d + self.remembered) + (2 * d + self.gate_rank) + (self.gate_rank + d)
            sides += 3 * self.remembered + 3 * self.memory_heads * CHUNK
        return BETWEEN_PROJECTIONS * sides
