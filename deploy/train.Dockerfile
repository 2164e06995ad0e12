# Written by `agentforge deploy aj deploy`; change the recipe, not this.
# docker build -f deploy/train.Dockerfile -t agentforge-train .
# docker run --gpus all --ipc=host --ulimit memlock=-1 --ulimit nofile=65536 -e HF_TOKEN -v "$PWD/runs/aj:/app/runs/aj" -v agentforge-cache:/cache agentforge-train agentforge run aj
# For 1xh200 (1x H200, 139.8 GiB each). Checks itself: docker run --gpus all --ipc=host --ulimit memlock=-1 --ulimit nofile=65536 agentforge-train
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04
RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    g++ git make python3-dev python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY . .
# torch 2.13.0 of PyPI is built for CUDA 13.0.
RUN make setup gguf-setup
ENV PATH=/app/.venv/bin:$PATH TORCH_CUDA_ARCH_LIST="8.0;8.9;9.0" MAX_JOBS=8
RUN pip install --no-cache-dir ninja packaging setuptools wheel \
 && pip install --no-cache-dir --no-build-isolation --constraint constraints/cpu.txt flash-attn==2.8.3.post2 mamba-ssm==2.3.2.post1 causal-conv1d==1.7.0
ENV HF_HOME=/cache/huggingface AGENTFORGE_CACHE=/cache/agentforge TRITON_CACHE_DIR=/cache/triton
VOLUME ["/cache"]
CMD ["agentforge", "doctor", "--in-container"]
