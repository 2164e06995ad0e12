"""How fast vLLM writes on a card (configs/hardware/samplers.yaml)."""

from __future__ import annotations

import datetime
from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from agentforge.recipe.yaml_files import config_roots, read_yaml


class Card(BaseModel):
    """What a card's memory gives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    card: str = Field(description="`gpu` of the hardware's file")
    bytes_per_second: float = Field(gt=0)
    source: str


class Measurement(BaseModel):
    """Tokens a second of one card that somebody has measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    card: str
    model: str
    parameters: float = Field(gt=0)
    rows: int = Field(ge=1, description="requests at once")
    tokens_per_second: float = Field(gt=0)
    date: datetime.date
    source: str


class Samplers(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid")

    cards: list[Card]
    measured: list[Measurement]

    def bandwidth(self, card: str | None) -> float | None:
        """Return the bytes a second of a card's memory; None: it is not in the table."""
        return next((one.bytes_per_second for one in self.cards if one.card == card), None)


@cache
def load_samplers() -> Samplers:
    """Return the nearest file."""
    paths = (root / "hardware" / "samplers.yaml" for root in config_roots())
    return Samplers.model_validate(read_yaml(next(path for path in paths if path.is_file())))
