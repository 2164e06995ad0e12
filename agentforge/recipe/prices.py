"""What providers ask for a GPU and hour (configs/hardware/prices.yaml)."""

from __future__ import annotations

import datetime
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentforge.errors import UserError, did_you_mean
from agentforge.recipe.yaml_files import config_roots, read_yaml

PRICES = "prices"
"""Name of the file in configs/hardware, which is no hardware."""


class Offer(BaseModel):
    """What one provider asks for one card."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    provider: str = Field(min_length=1)
    card: str = Field(description="`gpu` of the hardware's file")
    dollars_per_gpu_hour: float = Field(ge=0)
    date: datetime.date
    source: str = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    offers: list[Offer]


def offers_of(card: str | None) -> list[Offer]:
    """Return the offers for a card, the cheapest first. Nearer files replace what others say of the same provider.

    Raises:
        UserError: a prices.yaml is wrong.
    """
    found: dict[str, Offer] = {}
    for root in reversed(config_roots()):
        for offer in _read(root / "hardware" / f"{PRICES}.yaml"):
            if offer.card == card:
                found[offer.provider] = offer
    return sorted(found.values(), key=lambda offer: offer.dollars_per_gpu_hour)


def offer_of(provider: str, card: str | None) -> Offer:
    """Return what a provider asks for a card.

    Raises:
        UserError: it has no offer for this card; those that have are named.
    """
    offers = {offer.provider: offer for offer in offers_of(card)}
    if provider in offers:
        return offers[provider]
    near = did_you_mean(provider, list(offers))
    hint = near or f" (it has {', '.join(offers) or 'none'}); add one, or leave out hardware.provider"
    what = card or "a machine without a GPU"
    raise UserError(f"configs/hardware/{PRICES}.yaml has no offer of '{provider}' for {what}{hint}")


def _read(path: Path) -> tuple[Offer, ...]:
    return _parsed(path.resolve(), path) if path.is_file() else ()


@cache
def _parsed(path: Path, shown: Path) -> tuple[Offer, ...]:
    try:
        return tuple(_File.model_validate(read_yaml(path)).offers)
    except ValidationError as error:
        detail = error.errors()[0]
        raise UserError(f"{shown}: {'.'.join(map(str, detail['loc']))}: {detail['msg']}") from None
