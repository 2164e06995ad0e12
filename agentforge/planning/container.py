"""`doctor --in-container`: whether a training container is what its image promises. Looked at from inside.

An image can be built without a GPU and still be wrong on one: a driver that is too old, kernels compiled for another
card, 64 MB of shared memory. Each of these costs an hour of a rented node when training finds it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from agentforge.cache import cache_directory
from agentforge.planning.check import Check

CUDA = "13.0"
PINS = {
    "torch": "2.13.0",
    "triton": "3.7.1",
    "flash-attn": "2.8.3.post2",
    "mamba-ssm": "2.3.2.post1",
    "causal-conv1d": "1.7.0",
}
"""Versions that belong together: triton is what torch's wheel asks for; the kernels were the newest on 2026-11-28."""

KERNELS = ("flash-attn", "mamba-ssm", "causal-conv1d")
SHARED_MEMORY = 8 << 30  # bytes; a worker's batches and NCCL's buffers for eight processes take some GiB
OPEN_FILES = 65536
PROBE_SECONDS = 300.0  # triton compiles what it has not in its cache

# Runs in a process of its own: a kernel for another card may crash. Imports, then calls each kernel once.
PROBE = """
import json, sys
found = {}
import torch
found["cuda"] = torch.version.cuda
found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
on = torch.cuda.is_available()
def attempt(name, work):
    try:
        work()
        found[name] = "called" if on else "imported"
    except BaseException as error:
        found[name] = f"{type(error).__name__}: {error}"[:300]
def tensor(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
def product():
    if on:
        x = tensor(256, 256); assert torch.isfinite(x @ x).all()
def attention():
    from flash_attn import flash_attn_func
    if on:
        q = tensor(1, 64, 4, 64); assert torch.isfinite(flash_attn_func(q, q, q, causal=True)).all()
def convolution():
    from causal_conv1d import causal_conv1d_fn
    if on:
        assert torch.isfinite(causal_conv1d_fn(tensor(1, 64, 32), tensor(64, 4), activation="silu")).all()
def scan():
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    if on:
        x, dt, a, b = tensor(1, 64, 4, 32), tensor(1, 64, 4), -torch.rand(4, device="cuda"), tensor(1, 64, 1, 16)
        assert torch.isfinite(mamba_chunk_scan_combined(x, dt, a, b, b, chunk_size=32, dt_softplus=True)).all()
attempt("bf16", product)
attempt("flash-attn", attention)
attempt("causal-conv1d", convolution)
attempt("mamba-ssm", scan)
print(json.dumps(found))
"""


def diagnose_container() -> list[Check]:
    """Return what this container has and lacks for training on GPUs."""
    return [*_versions(), *_probed(_probe()), *_caches(), _shared_memory(), *_limits()]


def _versions() -> Iterator[Check]:
    for package, wanted in PINS.items():
        if (here := _version(package)) is None:
            yield Check(f"version {package}", "missing", f"not installed; the image has {wanted}", "build it again")
            continue
        # A build for one CUDA is called 2.13.0+cu130.
        same = here.partition("+")[0] == wanted
        detail = here if same else f"{here}; the image has {wanted}, and the kernels were compiled for that"
        yield Check(f"version {package}", "ok" if same else "missing", detail, "" if same else "build it again")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _probe() -> dict[str, Any]:
    """Import and call the kernels in a process of their own; return what it found, or ``{"error": ...}``."""
    try:
        run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)[:300]}
    try:
        found: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = next(reversed(run.stderr.strip().splitlines()), f"it ended with exit code {run.returncode}")
        return {"error": last[:300]}
    return found


def _probed(found: dict[str, Any]) -> Iterator[Check]:
    if "error" in found:
        yield Check("cuda", "missing", f"torch cannot be asked: {found['error']}", "build the image again")
        return
    built, gpus = found["cuda"], found["gpus"]
    if built is None or not built.startswith(CUDA):
        yield Check(
            "cuda", "missing", f"torch is built for CUDA {built}, the image for {CUDA}", "build the image again"
        )
    elif not gpus:
        mend = "docker run --gpus all, on a machine whose driver knows CUDA " + CUDA.partition(".")[0]
        yield Check("cuda", "missing", f"torch is built for CUDA {built} and sees no GPU", mend)
    else:
        yield Check("cuda", "ok", f"CUDA {built}, {len(gpus)}x {gpus[0]}")
    for name in ("bf16", *KERNELS):
        well = found[name] in ("called", "imported")
        mend = "" if well else "build the image again, with this card in TORCH_CUDA_ARCH_LIST"
        yield Check(f"kernel {name}", "ok" if well else "missing", found[name], mend)


def _caches() -> Iterator[Check]:
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    for name, directory in (("hub", hub), ("own", cache_directory())):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=directory):
                pass
        except OSError as error:
            mend = "mount a volume there that this user may write to: docker run -v agentforge-cache:/cache"
            yield Check(f"cache {name}", "missing", f"{directory}: {error.strerror}", mend)
            continue
        # In the container's own layer, models would be downloaded again for each container.
        if _file_system(directory) == _file_system(Path("/")):
            mend = "docker run -v agentforge-cache:/cache"
            yield Check(f"cache {name}", "warn", f"{directory} goes with the container", mend)
        else:
            yield Check(f"cache {name}", "ok", f"{directory} is a volume")


def _file_system(directory: Path) -> int:
    return os.stat(directory).st_dev


def _shared_memory() -> Check:
    size = _shared_bytes()
    enough = size >= SHARED_MEMORY
    detail = f"{size / 2**30:.3g} GiB" + ("" if enough else f"; NCCL and the rows' loaders need {SHARED_MEMORY >> 30}")
    return Check("shared memory", "ok" if enough else "missing", detail, "" if enough else "docker run --ipc=host")


def _shared_bytes() -> int:
    try:
        place = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return place.f_frsize * place.f_blocks


def _soft_limit(which: int) -> int:
    return resource.getrlimit(which)[0]


def _limits() -> Iterator[Check]:
    files = _soft_limit(resource.RLIMIT_NOFILE)
    mend = f"docker run --ulimit nofile={OPEN_FILES}"
    well = files == resource.RLIM_INFINITY or files >= OPEN_FILES
    yield Check("open files", "ok" if well else "missing", _limit(files), "" if well else mend)
    locked = _soft_limit(resource.RLIMIT_MEMLOCK)
    well = locked == resource.RLIM_INFINITY
    detail = _limit(locked) + ("" if well else "; between nodes, NCCL must pin memory")
    yield Check("locked memory", "ok" if well else "warn", detail, "" if well else "docker run --ulimit memlock=-1")


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else f"{value:,}"
