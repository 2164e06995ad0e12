"""How `generate` drives an AGIFORMER."""

from __future__ import annotations

from typing import Any

from agentforge.models.own_cache import OwnCache
from agentforge.systems.agiformer.modeling.cache import AgiformerCache


class AgiformerGeneration(OwnCache):
    """`generate` with an `AgiformerCache`."""

    called = "an AGIFORMER"

    def new_cache(self) -> AgiformerCache:
        return AgiformerCache()

    def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> Any:
        """Do as `GenerationMixin`; it looks here for `inputs_embeds`, and refuses them where they are not named."""
        return super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]
