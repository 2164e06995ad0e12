"""What halting saves: time and work of scoring and of decoding at several thresholds, against no threshold.

The model is a checkpoint, or the default Cognate with random weights whose halting head is set so that tokens differ in
when they stop. Then the answers mean nothing, and what is measured is what it costs to think shorter. Thresholds take
turns in one process, and each figure is the least of the turns.

    python -m benchmarks.cognate_halting [--model PATH] [--rows 4] [--tokens 192] [--new 12] [--turns 2]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM
from agentforge.systems.cognate.modeling.work import Work, counted_work

THRESHOLDS: tuple[float | None, ...] = (None, 0.95, 0.9, 0.7, 0.5, 0.0)


def random_model() -> CognateForCausalLM:
    """Return the default model whose tokens stop at every iteration: probabilities of 0.1 to 0.9, by token."""
    torch.manual_seed(0)
    model = CognateForCausalLM(CognateConfig()).eval()
    with torch.no_grad():
        model.model.halting_head.weight.normal_(std=1.5 * model.config.hidden_size**-0.5)
        model.model.halting_head.bias.fill_(0.3)
    return model


def scoring(model: CognateForCausalLM, ids: Tensor, threshold: float | None) -> Tensor:
    """Read a batch as `evaluate` does; returns the steps of each token."""
    return model(ids, exit_threshold=threshold, use_cache=False).halting_steps


def decoding(new: int) -> Callable[[CognateForCausalLM, Tensor, float | None], Tensor]:
    """Decode greedily behind the first 32 tokens."""

    def run(model: CognateForCausalLM, ids: Tensor, threshold: float | None) -> Tensor:
        out = model(ids[:, :32], exit_threshold=threshold, use_cache=True, logits_to_keep=1)
        steps = []
        for _ in range(new):
            following = out.logits[:, -1:].argmax(-1)
            out = model(following, exit_threshold=threshold, past_key_values=out.past_key_values)
            steps.append(out.halting_steps)
        return torch.cat(steps, 1)

    return run


@torch.no_grad()
def measure(
    run: Callable[[CognateForCausalLM, Tensor, float | None], Tensor],
    model: CognateForCausalLM,
    ids: Tensor,
    turns: int,
) -> dict[float | None, dict[str, Any]]:
    """Return mean steps, work, and the least CPU and wall seconds at each threshold."""
    found: dict[float | None, dict[str, Any]] = {}
    for threshold in THRESHOLDS:
        with counted_work() as work:
            steps = run(model, ids, threshold)
        found[threshold] = {"steps": float(steps.float().mean()), "work": work, "cpu": [], "wall": []}
    for _ in range(turns):
        for threshold in THRESHOLDS:
            wall, cpu = time.perf_counter(), time.process_time()
            run(model, ids, threshold)
            found[threshold]["cpu"].append(time.process_time() - cpu)
            found[threshold]["wall"].append(time.perf_counter() - wall)
    return found


def table(name: str, found: dict[float | None, dict[str, Any]]) -> list[str]:
    """Return Markdown rows, each against no threshold."""
    whole: Work = found[None]["work"]
    rows = []
    for threshold, one in found.items():
        work: Work = one["work"]
        shares = (
            work.core / whole.core,
            work.flops / whole.flops,
            *(min(one[k]) / min(found[None][k]) for k in ("cpu", "wall")),
        )
        cells = " | ".join(f"{share:.2f}" for share in shares)
        rows.append(
            f"| {name} | {'none' if threshold is None else threshold} | {one['steps']:.2f} "
            f"| {cells} | {min(one['cpu']):.2f} s |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    for name, value in (("rows", 4), ("tokens", 192), ("new", 12), ("turns", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = CognateForCausalLM.from_pretrained(args.model).eval() if args.model else random_model()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, model.config.vocab_size, (args.rows, args.tokens), generator=generator)
    print("| | exit_threshold | mean iterations | core, token-layers | FLOPs | CPU time | wall time | CPU seconds |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, run in (("scoring", scoring), ("decoding", decoding(args.new))):
        print("\n".join(table(name, measure(run, model, ids, args.turns))))


if __name__ == "__main__":
    main()
