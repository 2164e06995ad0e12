"""What every part of a recipe is: strict keys, immutable once it is loaded."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the recipe. Systems add keys to a section by a subclass of this (see `systems.base.System`)."""

    # Strict: "100" is not 100, and no wrong type is silently converted. Frozen: what the manifest records is what the
    # stage has read. No protected names: a recipe may well have keys that begin with `model_`.
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        defer_build=True,
    )


def is_default(section: Section, key: str) -> bool:
    """Tell whether a key has its default value."""
    return bool(getattr(section, key) == type(section).model_fields[key].get_default(call_default_factory=True))


Keys = TypeVar("Keys", bound=Section)


def keys_of(section: Section, keys: type[Keys]) -> Keys:
    """Return a section of a recipe as the class of the system that added keys to it, so that they have their types."""
    assert isinstance(section, keys)
    return section
