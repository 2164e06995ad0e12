"""The machine a recipe is written for (configs/hardware) and the machine it runs on, found without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agentforge.errors import UserError


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


@cache
def this_machine() -> Machine:
    """Return the GPUs (from nvidia-smi), cores that this process may use, and memory."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        pages = min(pages, int(text))
    return Machine(_gpus(), len(os.sched_getaffinity(0)), pages / 2**30)


def _gpus() -> tuple[Gpu, ...]:
    if not shutil.which("nvidia-smi"):
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return ()
    rows = [line.rsplit(",", 1) for line in answer.strip().splitlines() if "," in line]
    return tuple(Gpu(name.strip(), float(memory) / 1024) for name, memory in rows if memory.strip().isdigit())


def choose_profile(hardware_of: dict[str, str | None]) -> str:
    """Return the profile whose hardware fits this machine best.

    Args:
        hardware_of: profile name to the name of its hardware (``8xh200``), or None if the profile names none.

    Raises:
        UserError: none of the profiles fits.
    """
    machine = this_machine()
    fitting: list[tuple[int, str]] = []
    for profile, hardware in hardware_of.items():
        if hardware is None:
            continue
        count, _, kind = hardware.partition("x") if hardware[:1].isdigit() else ("0", "", hardware)
        same = [gpu for gpu in machine.gpus if kind.lower() in gpu.name.lower().replace(" ", "")]
        if (kind == "cpu" and not machine.gpus) or (same and len(same) >= int(count)):
            fitting.append((int(count), profile))
    if not fitting:
        offered = ", ".join(f"{profile} ({hardware})" for profile, hardware in hardware_of.items() if hardware)
        raise UserError(f"no profile fits this machine ({machine}); name one with --profile: {offered or 'there is none'}")
    return max(fitting)[1]
