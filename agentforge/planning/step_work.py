"""What a training step computes and holds beside one pass of the whole model: for systems to say."""

from __future__ import annotations

from dataclasses import dataclass

from agentforge.planning.sizes import Shape
from agentforge.recipe.schema import Recipe
from agentforge.systems.registry import answer, concerned


@dataclass(frozen=True)
class StepWork:
    """The rest of a step.

    Attributes:
        passes: further models that are trained inside the whole one, each with the share of steps that have it.
        kept: those of them whose activations are held at once, at most.
        head_flops: operations a token of further uses of the head.
        teacher: a frozen model that reads along; None: there is none.
        flops: operations a token, forward and backward, that the model's parameters do not show: a layer that is run
            again, a memory that is written.
        recomputed: those of them that gradient checkpointing does once more.
        activations: numbers a token that are kept for the backward pass of the same.
        checkpoints: numbers a token that are kept of it under gradient checkpointing.
        in_blocks: logits are made in blocks (`memory.MAX_LOGITS_BYTES`) instead of all at once.
        block_bytes: of the logits that are made at once, where the blocks are smaller than that; None: they are not.
        undivided: why neither weights nor states may be divided among devices, as a sentence; None: they may.
        purpose: parameters that the stage is there to train; None: all that are trained.
    """

    passes: tuple[tuple[Shape, float], ...] = ()
    kept: tuple[Shape, ...] = ()
    head_flops: float = 0.0
    teacher: Shape | None = None
    flops: float = 0.0
    recomputed: float = 0.0
    activations: float = 0.0
    checkpoints: float = 0.0
    in_blocks: bool = False
    block_bytes: float | None = None
    undivided: str | None = None
    purpose: int | None = None


def step_work(recipe: Recipe, shape: Shape) -> StepWork:
    """Return what a recipe's system adds to each step; of a plain recipe nothing."""
    systems = concerned({"model_type": shape.model_type}, {"train": recipe.train})
    return answer("step_work", systems, recipe, shape) or StepWork()
