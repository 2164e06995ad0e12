"""How `generate` gets a Cognate's cache."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from agentforge.errors import UserError
from agentforge.systems.cognate.modeling.cache import CognateCache


class CognateGeneration:
    """`generate` with a `CognateCache`."""

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        if model_kwargs.get("past_key_values") is not None or generation_config.use_cache is False:
            return
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise UserError(
                f"cache_implementation: a Cognate has no {generation_config.cache_implementation} cache; leave it out"
            )
        model_kwargs["past_key_values"] = CognateCache(self.config)  # type: ignore[attr-defined]
