"""Opening the policy of a model, whatever its format."""

from __future__ import annotations

from pathlib import Path

from agentforge.manifest import check_bytes
from agentforge.models.locate_model import ModelLocation
from agentforge.recipe.rollouts_section import Rollouts
from agentforge.rollouts.policies.base import Policy


def open_policy(location: ModelLocation, context_length: int | None = None, rollouts: Rollouts | None = None) -> Policy:
    """Load a model.

    Args:
        location: from `agentforge.models.locate_model`.
        context_length: tokens read and written at most; None: the model's own (GGUF: at most 8192, its cache is
            allocated at once).
        rollouts: says what runs a checkpoint or an adapter; None: transformers.
    """
    if location.kind == "gguf":
        from agentforge.rollouts.policies.gguf_policy import GGUFPolicy

        check_bytes(Path(location.path))
        return GGUFPolicy.open(location, context_length)
    if rollouts is not None and rollouts.engine == "vllm":
        from agentforge.rollouts.policies.vllm_policy import VLLMPolicy

        return VLLMPolicy.open(location, context_length, rollouts.vllm)
    from agentforge.rollouts.policies.transformers_policy import TransformersPolicy

    return TransformersPolicy.open(location, context_length)
