"""The keys that Cognate adds to a recipe. What belongs to the model (losses and their weights) is in `model.config`."""

from __future__ import annotations

from pydantic import Field

from agentforge.recipe.section import Section


class CognateTrain(Section):
    """What `train` may ask for."""

    gate_annealing: float = Field(
        1.0, gt=0, le=1, description="share of the run over which the gate's weight falls from model.config's to 0"
    )
