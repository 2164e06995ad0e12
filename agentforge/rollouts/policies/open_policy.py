"""Opening the policy of a model, whatever its format."""

from __future__ import annotations

from typing import Literal

from agentforge.models.locate_model import ModelLocation
from agentforge.rollouts.policies.base import Policy


def open_policy(
    location: ModelLocation, context_length: int | None = None, engine: Literal["transformers", "vllm"] = "transformers"
) -> Policy:
    """Load a model.

    Args:
        location: from `agentforge.models.locate_model`.
        context_length: tokens read and written at most; None: the model's own (GGUF: at most 8192, its cache is
            allocated at once).
        engine: what runs a checkpoint or an adapter.
    """
    if location.kind == "gguf":
        from agentforge.rollouts.policies.gguf_policy import GGUFPolicy

        return GGUFPolicy.open(location, context_length)
    if engine == "vllm":
        from agentforge.rollouts.policies.vllm_policy import VLLMPolicy

        return VLLMPolicy.open(location, context_length)
    from agentforge.rollouts.policies.transformers_policy import TransformersPolicy

    return TransformersPolicy.open(location, context_length)
