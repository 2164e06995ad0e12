"""What surgery makes can be trained by two processes: under DDP every parameter must get a gradient in every step."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM
from agentforge.systems.adamba.modeling.shape import AdambaShape
from agentforge.systems.adamba.surgery.drop_attention import drop_attention
from agentforge.systems.adamba.surgery.expand import expand
from agentforge.systems.adamba.surgery.graft import MambaSizes, graft
from agentforge.systems.adamba.surgery.importance import measure, order_checkpoint
from agentforge.systems.adamba.surgery.nanochat_graft import graft_nanochat
from agentforge.systems.adamba.surgery.slicing import slice_checkpoint
from tests.systems.adamba.checkpoints import llama
from tests.systems.adamba.surgery.test_nanochat_graft import hub

SIZES = MambaSizes(d_state=4, chunk=16)


def products(directory: Path) -> list[Path]:
    """One checkpoint of each operation; the last two have dropped attention."""
    names = ("graft", "nanochat", "expanded", "half", "shallow", "ordered", "dropped", "dropped and expanded")
    made = {name: directory / name for name in names}
    for path in made.values():
        path.mkdir()
    graft(llama(directory / "llama"), made["graft"], SIZES, 0)
    graft_nanochat(hub(directory / "hub"), made["nanochat"], SIZES, 0)
    model = AdambaForCausalLM.from_pretrained(made["graft"]).eval()
    shape = AdambaShape.of(model.config)
    larger = replace(shape, hidden_size=80, num_hidden_layers=3)
    expand(made["graft"], made["expanded"], larger, 0)
    slice_checkpoint(made["graft"], made["half"], AdambaShape(32, 2, 1, 48, 2, 2))
    slice_checkpoint(made["graft"], made["shallow"], replace(shape, num_hidden_layers=1))
    order_checkpoint(made["graft"], made["ordered"], measure(model, [list(range(20))]))
    drop_attention(made["graft"], made["dropped"], [0])
    expand(made["dropped"], made["dropped and expanded"], larger, 0)
    return list(made.values())


def test_two_processes_train_what_surgery_makes(tmp_path: Path) -> None:
    paths = [str(path) for path in products(tmp_path)]
    command = [sys.executable, "-m", "tests.systems.adamba.modeling.ddp_steps"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), *paths],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
        assert output.splitlines()[-1] == "done"
