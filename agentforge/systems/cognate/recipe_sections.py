"""The keys that Cognate adds to a recipe. What belongs to the model (losses and their weights) is in `model.config`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agentforge.recipe.section import Section


class CognateTrain(Section):
    """What `train` may ask for."""

    gate_annealing: float = Field(
        1.0, gt=0, le=1, description="share of the run over which the gate's weight falls from model.config's to 0"
    )


class Branch(Section):
    """A specialisation of a trunk: how long it thinks, and how large its memory is."""

    specialisation: Literal["reasoning", "memory", "speed"] | None = Field(
        None, description="a named one; what is set beside it takes the place of its own values"
    )
    name: str | None = Field(
        None, pattern=r"^[a-z][a-z0-9_]*$", description="of a specialisation of one's own, for the artefact's name"
    )
    exit_threshold: float | None = Field(
        None, gt=0, le=1, description="cumulative halting probability at which a token stops; higher thinks longer"
    )
    memory_heads: int | None = Field(None, ge=1, description="more than the trunk's are added silent; fewer are cut")
    memory_layers: list[int] | None = Field(
        None, description="layers that keep their memory, counted from 0 through prelude and core; []: none"
    )
    halve_memory: bool | None = Field(
        None, description="cut the memory to a half, by heads or by layers, whichever costs less on the eval rows"
    )
    rows: int = Field(64, ge=1, description="how many prepared eval rows a smaller memory is measured on")


class CognateSurgery(Section):
    """What `surgery` may be asked for."""

    branch: Branch | None = Field(None, description="branch: the specialisation")


class CognateLoss(Section):
    """What `evaluate.loss` measures beside the model as it is configured."""

    exit_thresholds: list[float] = Field(
        default_factory=list, description="also measure loss, steps and time at these, and with all steps; a Cognate's"
    )
