"""What `doctor --in-container` says of containers that lack something; the container is made up."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentforge.planning import container
from agentforge.planning.check import Check
from agentforge.planning.container import KERNELS, PINS, PROBE, diagnose_container

ROOT = Path(__file__).parents[2]
SOUND = {"cuda": "13.0", "gpus": ["NVIDIA H200"], "bf16": "called"} | dict.fromkeys(KERNELS, "called")


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A container as it should be."""
    monkeypatch.setattr(container, "_version", lambda name: PINS[name])
    monkeypatch.setattr(container, "_probe", lambda: dict(SOUND))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("AGENTFORGE_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(container, "_shared_bytes", lambda: 16 << 30)
    monkeypatch.setattr(container, "_file_system", lambda place: 0 if place == Path("/") else 1)
    limits = {resource.RLIMIT_NOFILE: 65536, resource.RLIMIT_MEMLOCK: resource.RLIM_INFINITY}
    monkeypatch.setattr(container, "_soft_limit", lambda which: limits[which])
    return monkeypatch


def by_name() -> dict[str, Check]:
    return {check.name: check for check in diagnose_container()}


def test_a_sound_container_lacks_nothing(sound: pytest.MonkeyPatch) -> None:
    checks = by_name()
    assert {check.state for check in checks.values()} == {"ok"}
    assert checks["cuda"].detail == "CUDA 13.0, 1x NVIDIA H200"
    assert len(checks) == len(PINS) + 1 + 1 + len(KERNELS) + 2 + 1 + 2


@pytest.mark.parametrize(
    ("found", "name", "says", "mend"),
    [
        ({"gpus": []}, "cuda", "sees no GPU", "--gpus all"),
        ({"cuda": "12.8"}, "cuda", "built for CUDA 12.8, the image for 13.0", "build"),
        ({"cuda": None}, "cuda", "built for CUDA None", "build"),
        ({"mamba-ssm": "ImportError: libcudart.so.12"}, "kernel mamba-ssm", "libcudart", "TORCH_CUDA_ARCH_LIST"),
        ({"bf16": "AssertionError: "}, "kernel bf16", "AssertionError", "TORCH_CUDA_ARCH_LIST"),
        ({"error": "ended with exit code -11"}, "cuda", "exit code -11", "build"),
    ],
)
def test_a_gpu_or_a_kernel_that_does_not_work(
    sound: pytest.MonkeyPatch, found: dict[str, Any], name: str, says: str, mend: str
) -> None:
    sound.setattr(container, "_probe", lambda: found if "error" in found else SOUND | found)
    check = by_name()[name]
    assert check.state == "missing" and says in check.detail and mend in check.mend


def test_other_versions(sound: pytest.MonkeyPatch) -> None:
    here = PINS | {"torch": "2.13.0+cu130", "triton": "3.6.0"}
    sound.setattr(container, "_version", here.get)
    checks = by_name()
    assert checks["version torch"].state == "ok", "the same version, built for one CUDA"
    assert (
        checks["version triton"].state == "missing" and "3.6.0; the image has 3.7.1" in checks["version triton"].detail
    )


def test_what_docker_run_was_not_told(sound: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sound.setattr(container, "_shared_bytes", lambda: 64 << 20)
    sound.setattr(container, "_soft_limit", lambda which: 1024)
    (tmp_path / "file").write_text("")
    sound.setenv("HF_HOME", str(tmp_path / "file" / "hub"))
    sound.setattr(container, "_file_system", lambda place: 0)
    checks = by_name()
    assert checks["shared memory"].state == "missing" and checks["shared memory"].detail.startswith("0.0625 GiB")
    assert checks["shared memory"].mend == "docker run --ipc=host"
    assert checks["open files"].mend == "docker run --ulimit nofile=65536"
    assert checks["locked memory"].state == "warn" and "memlock=-1" in checks["locked memory"].mend
    assert checks["cache hub"].state == "missing" and "docker run -v" in checks["cache hub"].mend
    assert checks["cache own"].state == "warn" and "goes with the container" in checks["cache own"].detail


def test_the_probe_runs_and_says_what_this_machine_lacks() -> None:
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120)
    found = json.loads(run.stdout)
    assert set(found) == {"cuda", "gpus", "bf16", *KERNELS}
    assert found["bf16"] in ("called", "imported")


def test_the_pins_are_those_of_the_project() -> None:
    constraints = (ROOT / "constraints" / "cpu.txt").read_text().split()
    assert f"torch=={PINS['torch']}" in constraints
    assert not [name for name in PINS if name != "torch" and any(line.startswith(f"{name}==") for line in constraints)]
