"""The machine a recipe is written for (configs/hardware) and the machine it runs on, found without torch."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentforge.errors import UserError
from agentforge.recipe.prices import PRICES, offer_of
from agentforge.recipe.section import Section
from agentforge.recipe.yaml_files import find_config, read_yaml

TABLES = (PRICES, "samplers")
"""Files of configs/hardware that are no hardware."""


class Band(BaseModel):
    """An estimate with its range, and where it comes from."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: float = Field(gt=0)
    mid: float = Field(gt=0)
    high: float = Field(gt=0)
    source: str = "guess"


class Rented(Section):
    """Hardware, and at whose price: that of a provider, or that of the hardware's own file."""

    name: str = Field(description="configs/hardware/NAME.yaml")
    provider: str | None = Field(None, description="whose price counts, from configs/hardware/prices.yaml")

    def __str__(self) -> str:
        return self.name


class Hardware(BaseModel):
    """One file of configs/hardware: what a run may use and what it costs. GiB are 2^30 bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    gpus: int = Field(ge=0, description="of all its nodes together")
    nodes: int = Field(1, ge=1, description="machines, each with as many of the GPUs; cores, memory and disk are one's")
    gpu: str | None = Field(description="what nvidia-smi's name of the GPU contains")
    memory_gib: float = Field(gt=0, description="one GPU's as torch can allocate it; without GPU, the host's")
    peak_flops: float = Field(gt=0, description="dense FLOP/s of one GPU in bf16; without GPU, the host's in fp32")
    bf16: bool = Field(True, description="the GPU multiplies in bf16; of a CPU the machine itself is asked")
    tf32: bool = Field(True, description="the GPU has tensor cores for fp32 (Ampere and later)")
    mfu: Band = Field(description="share of the peak that training reaches")
    dollars_per_gpu_hour: float = Field(ge=0)
    price_date: datetime.date
    price_source: str
    provider: str | None = Field(None, description="whose price it is; none: that of the hardware's own file")
    cores: int = Field(ge=1)
    host_memory_gib: float = Field(gt=0)
    disk_gib: float = Field(gt=0)

    @model_validator(mode="after")
    def _equal_nodes(self) -> Hardware:
        if self.gpus % self.nodes:
            raise ValueError(f"{self.gpus} GPUs cannot be divided among {self.nodes} nodes")
        return self

    @property
    def devices(self) -> int:
        """Processes that train: one a GPU, or one on the CPU of each node."""
        return max(self.gpus, self.nodes)

    @property
    def dollars_per_hour(self) -> float:
        """Price of the whole machine."""
        return self.devices * self.dollars_per_gpu_hour

    def __str__(self) -> str:
        what = f"{self.gpus}x {self.gpu}, {self.memory_gib:g} GiB each" if self.gpus else f"{self.cores} CPU cores"
        return f"{self.name} ({what})"


@cache
def load_hardware(chosen: str | Rented) -> Hardware:
    """Return configs/hardware/NAME.yaml, at the provider's price if one is named.

    Raises:
        UserError: there is none of that name (the nearest is given), it is wrong, or the provider does not offer it.
    """
    name = str(chosen)
    path = find_config("hardware", name, without=TABLES)
    try:
        hardware = Hardware.model_validate({"name": name, **read_yaml(path)})
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))
        raise UserError(f"{path}: {where + ': ' if where else ''}{detail['msg']}") from None
    if isinstance(chosen, str) or chosen.provider is None:
        return hardware
    offer = offer_of(chosen.provider, hardware.gpu)
    price = {"dollars_per_gpu_hour": offer.dollars_per_gpu_hour, "price_date": offer.date, "price_source": offer.source}
    return hardware.model_copy(update={**price, "provider": offer.provider})


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver reports it."""

    name: str
    memory_gib: float


@dataclass(frozen=True)
class Machine:
    """What was found here."""

    gpus: tuple[Gpu, ...]
    cores: int
    memory_gib: float

    def __str__(self) -> str:
        gpus = f"{len(self.gpus)}x {self.gpus[0].name} ({self.gpus[0].memory_gib:.0f} GiB)" if self.gpus else "no GPU"
        return f"{gpus}, {self.cores} cores, {self.memory_gib:.0f} GiB memory"

    def matching(self, hardware: Hardware) -> int:
        """Return how many of the GPUs here are of the kind that ``hardware`` names."""
        # Every name contains the empty string, so an empty kind matches nothing.
        kind = _plain(hardware.gpu or "")
        return sum(kind in _plain(gpu.name) for gpu in self.gpus) if kind else 0


@cache
def this_machine() -> Machine:
    """Return the GPUs (from nvidia-smi), the cores that this process may use, and the memory of its cgroup."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # In a container the host's memory is not ours. Without a limit the file holds the word `max`.
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return Machine(_gpus(), available_cores(), memory / 2**30)


def available_cores() -> int:
    """Return the cores that this process may use: a container or `taskset` may leave it fewer than there are."""
    # `os.cpu_count` counts the host's cores, whatever a container or `taskset` leaves us; macOS has nothing better.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> tuple[Gpu, ...]:
    if not shutil.which("nvidia-smi"):
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return ()
    return parse_gpus(answer)


def parse_gpus(answer: str) -> tuple[Gpu, ...]:
    """Return the GPUs of nvidia-smi's answer, lines of ``NVIDIA H200, 143771`` (MiB)."""
    rows = [line.rsplit(",", 1) for line in answer.strip().splitlines() if "," in line]
    # A device without memory of its own answers `[N/A]` instead of a number.
    return tuple(Gpu(name.strip(), float(memory) / 1024) for name, memory in rows if memory.strip().isdigit())


def _plain(name: str) -> str:
    return "".join(name.lower().split())


def choose_profile(hardware_of: dict[str, str | None], machine: Machine | None = None) -> str:
    """Return the profile whose hardware fits this machine best: the most GPUs of the right kind that are here.

    Args:
        hardware_of: profile name to the name of its hardware (``8xh200``), or None if the profile names none.
        machine: found by `this_machine` if not given.

    Raises:
        UserError: none of the profiles fits.
    """
    machine = machine or this_machine()
    fitting: list[tuple[int, str]] = []
    for profile, name in hardware_of.items():
        if name is None:
            continue
        hardware = load_hardware(name)
        # A CPU profile is for machines without a GPU. A GPU profile fits if there are at least as many of its kind.
        if (hardware.gpus == 0 and not machine.gpus) or 0 < hardware.gpus <= machine.matching(hardware):
            fitting.append((hardware.gpus, profile))
    if not fitting:
        offered = ", ".join(f"{profile} ({name})" for profile, name in hardware_of.items() if name)
        raise UserError(
            f"no profile fits this machine ({machine}); choose one with --profile: {offered or 'there is none'}"
        )
    return max(fitting)[1]
