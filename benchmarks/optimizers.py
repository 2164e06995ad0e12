"""What a step of mugrokfast costs, against AdamW and `torch.optim.Muon` (with AdamW for the rest) on the same model.

Each optimiser steps on one gradient of a forward and backward pass over ``--tokens`` tokens, whose time is taken too:
the last column is the optimiser's share of forward pass, backward pass and step. All take turns in one process, in CPU
seconds of one thread. `torch.optim.Muon` computes in bf16 and mugrokfast in fp32 on a CPU, so their ratio depends on
what the CPU does natively.

The smallest and largest singular value of what Newton-Schulz makes of a random momentum stand beside it: 1 is right.

    python -m benchmarks.optimizers [--tokens 1024] [--turns 5] [--shapes aj cognate]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.optim._muon import _zeropower_via_newtonschulz
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments

import agentforge.systems.cognate.auto
from agentforge.optim.mugrokfast import make_mugrokfast
from agentforge.optim.orthogonal import orthogonalized
from agentforge.optim.parameter_split import split_parameters
from agentforge.recipe.loading import load_recipe
from agentforge.recipe.schema import TokenizerTraining
from agentforge.systems.cognate.modeling.configuration import CognateConfig

assert agentforge.systems.cognate.auto


def aj() -> PreTrainedModel:
    """Return aj's tiny base, as its recipe has it."""
    from transformers import AutoConfig

    recipe = load_recipe("aj/tiny_base", [], None).model
    assert isinstance(recipe.tokenizer, TokenizerTraining)  # its vocabulary is the model's
    fields = recipe.config | {"vocab_size": recipe.tokenizer.vocab_size}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields))


def cognate() -> PreTrainedModel:
    """Return the Cognate of 25 million parameters."""
    return AutoModelForCausalLM.from_config(CognateConfig())


SHAPES: dict[str, Callable[[], PreTrainedModel]] = {"aj": aj, "cognate": cognate}


class MuonBeside:
    """`torch.optim.Muon` for the matrices that mugrokfast gives to Muon, AdamW for the rest."""

    def __init__(self, model: nn.Module) -> None:
        split = split_parameters(model)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(split.hidden, lr=1e-3, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(split.decayed + split.undecayed, lr=1e-3, fused=True),
        ]

    def step(self) -> None:
        for part in self.parts:
            part.step()


def optimizers(model: nn.Module) -> dict[str, Any]:
    args = TrainingArguments(output_dir="unused", learning_rate=1e-3, use_cpu=True, report_to="none")
    return {
        "AdamW": torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True),
        "torch.optim.Muon, and AdamW": MuonBeside(model),
        "mugrokfast": make_mugrokfast(model, args),
        "mugrokfast, every: 2": make_mugrokfast(model, args, every=2),
    }


def cpu_seconds(run: Callable[[], Any]) -> float:
    before = time.process_time()
    run()
    return time.process_time() - before


def singular_values(make: Callable[[Tensor], Tensor]) -> str:
    """Return the range of singular values that 1,280 x 320 random numbers come out with."""
    found = torch.linalg.svdvals(make(torch.randn(1, 1280, 320)).float())
    return f"{found.min():.2f} to {found.max():.2f}"


def measured(model: PreTrainedModel, tokens: int, turns: int) -> tuple[float, dict[str, float]]:
    """Return CPU seconds of a forward and backward pass, and of a step of each optimiser."""
    rows = max(1, tokens // 256)
    ids = torch.randint(1, model.config.vocab_size, (rows, tokens // rows))
    made = optimizers(model)
    passes: list[float] = []
    steps: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(turns + 2):  # the first two are thrown away: states are made in them
        model.zero_grad(set_to_none=True)
        passes.append(cpu_seconds(lambda: model(input_ids=ids, labels=ids).loss.backward()))
        for name, optimizer in made.items():
            steps[name].append(cpu_seconds(optimizer.step))
    # With `every` the steps differ, and a training pays their mean; the dearest is a neighbour's.
    kept = max(2, turns - 1)
    return min(passes[2:]), {name: sum(sorted(taken[2:])[:kept]) / kept for name, taken in steps.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("tokens", 1024), ("turns", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    ours = singular_values(lambda x: orthogonalized(x.mT).mT)
    its = singular_values(lambda x: _zeropower_via_newtonschulz(x[0], (3.4445, -4.7750, 2.0315), 5, 1e-7)[None])
    values = {"AdamW": "", "torch.optim.Muon, and AdamW": its}
    print("| model | optimiser | singular values | step, ms | of AdamW's | share of a training step |")
    print("|---|---|--:|--:|--:|--:|")
    for shape in args.shapes:
        torch.manual_seed(0)
        model = SHAPES[shape]().train()
        whole, cost = measured(model, args.tokens, args.turns)
        count = sum(weight.numel() for weight in model.parameters()) / 1e6
        for name, seconds in cost.items():
            print(
                f"| {shape}, {count:.1f}M | {name} | {values.get(name, ours)} | {1e3 * seconds:.1f} | "
                f"{seconds / cost['AdamW']:.1f} | {seconds / (seconds + whole):.0%} |"
            )


if __name__ == "__main__":
    main()
