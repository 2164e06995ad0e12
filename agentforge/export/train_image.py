"""The image that trains on NVIDIA GPUs: a pinned CUDA, torch and kernels, and what the project pins for all else.

The versions belong together. torch's wheel of PyPI is built for one CUDA; the kernels are compiled against both, which
takes a while, once. `agentforge doctor --in-container` compares a running container with them (`planning.container`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from agentforge.export.skypilot import setup_targets
from agentforge.planning.container import CUDA, KERNELS, PINS
from agentforge.recipe.hardware import Hardware
from agentforge.recipe.loading import Options
from agentforge.recipe.schema import Recipe, Stage

BASE = f"nvidia/cuda:{CUDA}.2-devel-ubuntu24.04"  # -devel: the kernels need its compiler
ARCHITECTURES = "8.0;8.9;9.0"  # A100, RTX 4090, H100 and H200
JOBS = 8  # compilers at once, of up to 8 GiB each
CACHE = "/cache"


def train_dockerfile(
    name: str,
    directory: str,
    recipe: Recipe,
    hardware: Hardware,
    planned: Sequence[tuple[Stage, Recipe]],
    options: Options,
) -> str:
    """Return an image that runs a recipe's stages on GPUs.

    Args:
        name: how the recipe is called.
        directory: holds the Dockerfile.
        recipe: says where the artefacts go.
        hardware: the machine.
        planned: the stages, each with the recipe that it reads.
        options: profile and overrides.
    """
    file, tag = shlex.quote(f"{directory}/train.Dockerfile"), "agentforge-train"
    mounts = f'-v "$PWD/{recipe.output_dir}:/app/{recipe.output_dir}" -v agentforge-cache:{CACHE}'
    # Processes share tensors in /dev/shm, of which a container has 64 MB by default; NCCL pins memory.
    limits = "--gpus all --ipc=host --ulimit memlock=-1 --ulimit nofile=65536"
    words = shlex.join(["agentforge", "run", name, *options.words()])
    pins = " ".join(f"{package}=={PINS[package]}" for package in KERNELS)
    return f"""# docker build -f {file} -t {tag} .
# docker run {limits} -e HF_TOKEN {mounts} {tag} {words}
# For {hardware}. Checks itself: docker run {limits} {tag}
FROM {BASE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
    g++ git make python3-dev python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
# torch {PINS["torch"]} of PyPI is built for CUDA {CUDA}.
RUN make {setup_targets(planned)}
ENV PATH=/app/.venv/bin:$PATH TORCH_CUDA_ARCH_LIST="{ARCHITECTURES}" MAX_JOBS={JOBS}
RUN pip install --no-cache-dir ninja packaging setuptools wheel \\
 && pip install --no-cache-dir --no-build-isolation --constraint constraints/cpu.txt {pins}
ENV HF_HOME={CACHE}/huggingface AGENTFORGE_CACHE={CACHE}/agentforge TRITON_CACHE_DIR={CACHE}/triton
VOLUME ["{CACHE}"]
CMD {json.dumps(["agentforge", "doctor", "--in-container"])}
"""
