"""The machine that is named and the machine that is here."""

import os

import pytest

from agentforge.errors import UserError
from agentforge.recipe.hardware import (
    TABLES,
    Gpu,
    Machine,
    available_cores,
    choose_profile,
    load_hardware,
    parse_gpus,
    this_machine,
)
from agentforge.recipe.yaml_files import config_roots

H200 = Gpu("NVIDIA H200", 140.4)
PROFILES = {"tiny": "cpu", "rtx4090": "rtx4090", "1xh200": "1xh200", "8xh200": "8xh200", "other": None}


def shipped_hardware() -> list[str]:
    return [path.stem for path in (config_roots()[0] / "hardware").glob("*.yaml") if path.stem not in TABLES]


@pytest.mark.parametrize("name", shipped_hardware())
def test_shipped_hardware_is_plausible(name: str) -> None:
    hardware = load_hardware(name)
    assert hardware.mfu.low < hardware.mfu.mid < hardware.mfu.high
    if hardware.gpus:
        assert hardware.dollars_per_gpu_hour > 0
        assert hardware.mfu.high < 0.5 or hardware.mfu.source != "guess", "a share that high must have been seen"


def test_memory_is_what_can_be_allocated_not_what_the_box_says() -> None:
    assert load_hardware("1xh200").memory_gib < 140.4 < 141
    assert load_hardware("1xh100").memory_gib < 79.65 < 80


def test_the_price_is_of_the_whole_machine_with_or_without_a_gpu() -> None:
    assert load_hardware("8xh200").dollars_per_hour == 8 * load_hardware("8xh200").dollars_per_gpu_hour
    rented = load_hardware("cpu").model_copy(update={"dollars_per_gpu_hour": 0.2})
    assert rented.dollars_per_hour == 0.2, "a rented CPU machine was free in train, evaluate and the report"


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert available_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert available_cores() == 7


def test_nvidia_smi_is_read() -> None:
    answer = "NVIDIA H200, 143771\nNVIDIA GeForce RTX 4090, 24564\nNVIDIA X, [N/A]\n"
    assert parse_gpus(answer) == (Gpu("NVIDIA H200", 143771 / 1024), Gpu("NVIDIA GeForce RTX 4090", 24564 / 1024))


@pytest.mark.parametrize(
    ("gpus", "profile"),
    [
        ((), "tiny"),
        ((H200,), "1xh200"),
        ((H200,) * 4, "1xh200"),
        ((H200,) * 8, "8xh200"),
        ((Gpu("NVIDIA GeForce RTX 4090", 24.0),), "rtx4090"),
    ],
)
def test_auto_takes_the_largest_profile_that_fits(gpus: tuple[Gpu, ...], profile: str) -> None:
    assert choose_profile(PROFILES, Machine(gpus, 8, 64.0)) == profile


def test_auto_says_what_there_is_if_none_fits() -> None:
    with pytest.raises(UserError, match=r"1x NVIDIA A100 .*tiny \(cpu\), rtx4090"):
        choose_profile(PROFILES, Machine((Gpu("NVIDIA A100", 80.0),), 8, 64.0))


def test_this_machine_has_cores_and_memory() -> None:
    machine = this_machine()
    assert machine.cores >= 1 and machine.memory_gib > 0.1
