"""Peak memory of one training step of the 25.2M-parameter Cognate on a CPU, beside what `plan` estimates.

The step is a real one: the objective that `train` uses, backward, clipping and AdamW, in fp32, rows of 512 tokens. Each
way runs in a process of its own, so that its peak is the kernel's (`ru_maxrss`), less what the process held before the
model was made. `plan`'s estimate is without the runtime's overhead, which is in that difference. 16 rows take about two
minutes on one core.

    python -m benchmarks.cognate_peak_memory
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

LENGTH, LIMIT = 512, 6.0
# Rows, and whether the layers are computed again: all of the batch that the specification trains with; and two rows
# with everything kept, to see whether the estimate holds there too.
WAYS = ((16, True), (2, False))

# glibc keeps freed blocks below a threshold that it raises as it goes, and cuts the next ones out of them: then 16 rows
# hold 3.7 GiB, and not 1.2. Fixed, each block goes back, and the peak is that of the tensors, as on a GPU.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def measured(rows: int, recompute: bool) -> float:
    """Take a step in this process; return the GiB at its peak beyond those at the start."""
    import torch

    from agentforge.systems.cognate.modeling.configuration import CognateConfig
    from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
    from agentforge.systems.cognate.training.objective import CognateObjective
    from agentforge.trainers.supervised.additions import Moment

    torch.manual_seed(0)
    before = _resident()
    model = CognateForCausalLM(CognateConfig()).train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    objective = CognateObjective(model)
    ids = torch.randint(0, model.config.vocab_size, (rows, LENGTH))
    loss, _ = objective(Moment(0, 0.0), ids, ids)
    (loss / ids.numel()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def estimated(rows: int, recompute: bool, hardware: str = "cpu") -> float:
    """Return the GiB that `plan` expects, the runtime's own left out."""
    from agentforge.planning.memory import estimate_memory
    from agentforge.recipe.schema import Recipe

    recipe = Recipe.model_validate(
        {
            "name": "peak",
            "hardware": hardware,
            "model": {"config": {"model_type": "cognate"}},
            "data": {"max_length": LENGTH},
            "train": {
                "method": "pretrain",
                "args": {"per_device_train_batch_size": rows, "gradient_checkpointing": recompute, "bf16": False},
            },
        }
    )
    memory = estimate_memory(recipe)
    return (memory.total() - memory.overhead) / 2**30


def main() -> None:
    if len(sys.argv) == 3:  # one way, in a process of its own
        print(measured(int(sys.argv[1]), sys.argv[2] == "True"))
        return
    print("| rows of 512 | gradient checkpointing | peak of a step, GiB | `plan`, GiB |")
    print("|--:|---|--:|--:|")
    for rows, recompute in WAYS:
        command = [sys.executable, "-m", "benchmarks.cognate_peak_memory", str(rows), str(recompute)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | RETURNING)
        peak = float(run.stdout)
        expected = estimated(rows, recompute)
        print(f"| {rows} | {'on' if recompute else 'off'} | {peak:.2f} | {expected:.2f} |")
        if peak > LIMIT:
            raise SystemExit(f"{rows} rows need {peak:.2f} GiB; the specification has {LIMIT:g}")


if __name__ == "__main__":
    main()
