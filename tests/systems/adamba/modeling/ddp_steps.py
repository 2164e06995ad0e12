"""One process of two that trains checkpoints under DDP: ``python -m ...ddp_steps RANK STORE DIRECTORY...``."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from agentforge.models.build import add_lora
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM


def two_steps(model: Any, rank: int) -> None:
    """DDP says at the second step that a parameter had no gradient in the first."""
    wrapped = DistributedDataParallel(model.train())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(2):
        ids = torch.randint(0, 64, (1, 12), generator=torch.Generator().manual_seed(2 * step + rank))
        optimizer.zero_grad()
        wrapped(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()


def main(rank: int, store: str, directories: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=60), world_size=2, rank=rank)
    for directory in directories:
        print(directory, flush=True)
        two_steps(AdambaForCausalLM.from_pretrained(directory), rank)
    model = AdambaForCausalLM.from_pretrained(directories[-1])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    two_steps(model, rank)
    print("LoRA", flush=True)
    two_steps(add_lora(model, {"r": 2, "target_modules": ["q_proj", "o_proj"]}, seed=0), rank)
    print("done", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
