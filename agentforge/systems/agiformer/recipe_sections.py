"""What an AGIFORMER recipe can say beyond any other's."""

from __future__ import annotations

from pydantic import Field

from agentforge.recipe.section import Section


class Thinking(Section):
    """Evidence for or against the thinking steps: the same model after 0 to K of them, and models without any."""

    rows: int = Field(200, ge=2, description="windows of the text, each as long as evaluate.bpc.context")
    controls: dict[str, str] = Field(
        default_factory=dict,
        description="name to path of models trained without thinking steps: of equal parameters, of equal FLOPs",
    )


class AgiformerEvaluate(Section):
    thinking: Thinking | None = Field(
        None, description="measure what the thinking steps are worth, on the text of evaluate.bpc"
    )
