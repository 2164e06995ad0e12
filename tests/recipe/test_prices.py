"""What providers ask, and whose price a recipe takes."""

import datetime
from pathlib import Path

import pytest

from agentforge.errors import UserError
from agentforge.recipe.hardware import Rented, load_hardware
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.prices import offers_of
from tests.recipe.test_hardware import shipped_hardware


def test_every_offer_is_for_a_card_that_some_hardware_has() -> None:
    cards = {load_hardware(name).gpu for name in shipped_hardware()}
    offers = [offer for card in cards for offer in offers_of(card)]
    assert {offer.provider for offer in offers} >= {"hpc-ai", "runpod"}
    assert all(0 < offer.dollars_per_gpu_hour < 20 and offer.date < datetime.date(2100, 1, 1) for offer in offers)
    assert [o.dollars_per_gpu_hour for o in offers_of("H200")] == sorted(
        o.dollars_per_gpu_hour for o in offers_of("H200")
    )


def test_a_provider_brings_its_price_and_nothing_else() -> None:
    plain, rented = load_hardware("8xh200"), load_hardware(Rented(name="8xh200", provider="hpc-ai"))
    assert rented.dollars_per_hour == pytest.approx(15.68) and rented.provider == "hpc-ai"
    price = {"dollars_per_gpu_hour", "price_date", "price_source", "provider"}
    assert plain.model_dump(exclude=price) == rented.model_dump(exclude=price)


def test_an_offer_of_ones_own_is_added_or_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "hardware").mkdir(parents=True)
    own = tmp_path / "configs" / "hardware" / "prices.yaml"
    line = "  - {provider: PROVIDER, card: H200, dollars_per_gpu_hour: 1.5, date: 2026-11-01, source: a bill}\n"
    own.write_text("offers:\n" + line.replace("PROVIDER", "hpc-ai") + line.replace("PROVIDER", "mine"))
    monkeypatch.chdir(tmp_path)
    offers = {offer.provider: offer.dollars_per_gpu_hour for offer in offers_of("H200")}
    assert offers["hpc-ai"] == offers["mine"] == 1.5 and offers["spheron"] == 4.54


def test_a_price_without_a_source_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "hardware").mkdir(parents=True)
    own = tmp_path / "configs" / "hardware" / "prices.yaml"
    own.write_text("offers: [{provider: x, card: H200, dollars_per_gpu_hour: 1.5, date: 2026-11-01}]")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"configs/hardware/prices\.yaml: offers\.0\.source: Field required"):
        offers_of("H200")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("hardware.provider=hpcai", "has no offer of 'hpcai' for H200; did you mean 'hpc-ai'?"),
        (
            "hardware.name=1xh100",
            r"no offer of 'hpc-ai' for H100 \(it has vast-spot, lambda-reserved, runpod\); add one",
        ),
        ("hardware=prices", "there is no hardware 'prices'; known: 1xh100"),
        ("hardware.price=2", "there is no key 'hardware.price'"),
        ("hardware=[1]", r"hardware is \[1\]; it must be text or a mapping"),
    ],
)
def test_what_is_no_offer_is_refused(override: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_recipe("adamba/phase1", [override])
