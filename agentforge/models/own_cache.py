"""`generate` of a model that remembers in a cache of its own kind."""

from __future__ import annotations

from typing import Any

from transformers import Cache, GenerationConfig

from agentforge.errors import UserError


class OwnCache:
    """Stands before `GenerationMixin` among a model's bases.

    Attributes:
        called: the model in a message, with its article.
    """

    called: str

    def new_cache(self) -> Cache:
        """Return an empty cache."""
        raise NotImplementedError

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        if generation_config.output_attentions:
            raise UserError(f"output_attentions: {self.called} keeps no attention weights; leave it out")
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise UserError(
                f"cache_implementation: {self.called} has no {generation_config.cache_implementation} cache; "
                "leave it out"
            )
        given = model_kwargs.get("past_key_values")
        if given is not None:
            # `generate` must not run a step too many in a cache that outlives it, as it does on some devices
            given._is_user_defined = True
        elif generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = self.new_cache()


def check_cache(given: Any, kind: type[Cache], called: str) -> None:
    """Refuse a cache of another kind; None is none.

    Raises:
        UserError: it is not of the kind.
    """
    if given is not None and not isinstance(given, kind):
        raise UserError(
            f"{called} remembers in {_article(kind)}, not in {_article(type(given))}; give none, and it makes one"
        )


def _article(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"
