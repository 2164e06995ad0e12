"""Tokens that a recipe asks a model to read, and those that the model has positions for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentforge.errors import UserError
from agentforge.models.config_check import CONFIG_CLASSES, config_class
from agentforge.planning.shapes import cached_config, maker_of
from agentforge.recipe.schema import Recipe
from agentforge.recipe.tables import fields_of

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
"""What config classes call the longest row."""
STRETCHED = ("linear", "dynamic", "yarn")
"""Kinds of rotary scaling whose config states the positions before they are stretched."""


def length_problems(recipe: Recipe, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that ask for more tokens than the base has positions.

    Args:
        config: of the base.
    """
    positions = positions_of(config) or _by_default(recipe)
    if positions is None:
        return
    mend = "lower it" if recipe.model.path is not None else "lower it, or raise model.config.max_position_embeddings"
    for key, length in _lengths(recipe):
        if length > positions:
            yield f"{key} is {length}, but the base has positions for only {positions} tokens; {mend}"


def _lengths(recipe: Recipe) -> Iterator[tuple[str, int]]:
    yield "data.max_length", recipe.data.max_length
    if recipe.rollouts.max_length is not None:
        yield "rollouts.max_length", recipe.rollouts.max_length
    if recipe.evaluate.bpc is not None:
        yield "evaluate.bpc.context", recipe.evaluate.bpc.context


def positions_of(config: Mapping[str, Any]) -> int | None:
    """Return the tokens that a config.json has positions for, stretched ones included; None: it does not say."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, dict) else config
    stated = [text[name] for name in POSITIONS if isinstance(text.get(name), int)]
    if not stated:
        return None
    scaling = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(scaling, dict) or scaling.get("rope_type", scaling.get("type")) not in STRETCHED:
        return int(stated[0])
    factor, original = scaling.get("factor", 1), scaling.get("original_max_position_embeddings") or stated[0]
    return max(int(stated[0]), int(factor * original)) if isinstance(factor, int | float) else int(stated[0])


def _by_default(recipe: Recipe) -> int | None:
    """Return the positions of a model from scratch whose config leaves them open, also of one that is not made yet."""
    model = recipe.model
    if model.path is not None:
        here = (Path(model.path) / "config.json").is_file() or cached_config(model) is not None
        maker = None if here else maker_of(model.path)
        return None if maker is None else positions_of(maker[1].model.config) or _by_default(maker[1])
    model_type = model.config.get("model_type")
    if model_type in CONFIG_CLASSES:
        fields = fields_of(CONFIG_CLASSES[model_type])
        return positions_of({name: fields[name].get("default") for name in POSITIONS if name in fields})
    given = {name: value for name, value in model.config.items() if name != "model_type"}
    try:
        return positions_of(config_class(model_type)(**given).to_dict())
    except UserError:
        return None
