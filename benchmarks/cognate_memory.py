"""CPU speed of the memory layer, forward and backward, against lucidrains' titans-pytorch 0.5.5 of equal size.

    python -m benchmarks.cognate_memory [--turns 3] [--small]

Its `NeuralMemory` has the same width, heads, batch and length; a linear memory model without residual, SiLU and
normalised queries and keys. What differs:

- Ours takes every token's error on the memory that the token before it has left: the rule as it is written. Theirs
  takes the errors of a *batch* of tokens on one and the same memory, and changes the memory once a *chunk*, with one
  decay for all of its tokens. So there are four of it. "each token": batch and chunk of 1, the same rule as ours;
  measured on short rows only, it takes too long. "own writes": chunks of 1, so that every token has its own write and
  decay, and errors on the memory of up to 64 tokens ago. "64, 64": both 64, the same chunk as ours. "64, all": chunks
  of 64 and all errors on the first memory of the row. The last two do much less work than a delta rule.
- Ours has three short convolutions. Theirs has a learned first memory.
- Its default memory model, an MLP of two layers, is left out: it is slower still.

They take turns, for a machine's speed drifts. A figure is the median of the turns' CPU seconds, one thread. Last: our
decoding of one token after the other. The comparison needs the package, which is no dependency of agentforge:

    pip install titans-pytorch==0.5.5
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from agentforge.systems.cognate.modeling.configuration import CognateConfig
from agentforge.systems.cognate.modeling.neural_memory import NeuralMemory

WIDTH, HEADS, DIM, CHUNK = 320, 2, 64, 64
SIZES = ((4, 128), (4, 512), (1, 2048))  # batch, length
SMALL = ((2, 64),)
OURS = "agentforge"
# chunk and batch of titans-pytorch
THEIRS = {"each token": (1, 1), "own writes": (1, CHUNK), "64, 64": (CHUNK, CHUNK), "64, all": (CHUNK, None)}
LONGEST_TOKEN_BY_TOKEN = 128


def ours(*, momentum: bool = False) -> nn.Module:
    config = CognateConfig(
        hidden_size=WIDTH, memory_heads=HEADS, memory_head_dim=DIM, memory_momentum=momentum, vocab_size=64
    )
    return NeuralMemory(config)


def theirs(chunk_size: int, batch_size: int | None, *, momentum: bool = False) -> nn.Module:
    """Return titans-pytorch's memory with a linear memory model."""
    try:
        from titans_pytorch import NeuralMemory as TitansMemory
        from titans_pytorch.memory_models import MemoryMLP
    except ImportError:
        raise SystemExit("titans-pytorch is not installed: pip install titans-pytorch==0.5.5") from None
    return TitansMemory(
        dim=WIDTH,
        heads=HEADS,
        dim_head=DIM,
        chunk_size=chunk_size,
        batch_size=batch_size,
        model=MemoryMLP(DIM, depth=1),
        momentum=momentum,
        activation=nn.SiLU(),
        qk_rmsnorm=True,
        mem_model_norm_add_residual=False,
    )


def contestants(length: int, momentum: bool) -> dict[str, nn.Module]:
    """Return the models by the names of the table's columns."""
    models = {name: theirs(*sizes, momentum=momentum) for name, sizes in THEIRS.items()}
    if length > LONGEST_TOKEN_BY_TOKEN:
        del models["each token"]
    return {OURS: ours(momentum=momentum)} | models


def train(model: nn.Module, x: Tensor) -> None:
    """Run a forward and backward pass, to the input as well: a layer below wants its gradient."""
    model(x.requires_grad_())[0].sum().backward()
    model.zero_grad()
    x.grad = None


@torch.no_grad()
def read(model: nn.Module, x: Tensor) -> None:
    model(x)


def seconds_of(
    job: Callable[[nn.Module, Tensor], None], models: dict[str, Any], x: Tensor, turns: int
) -> dict[str, float]:
    """Return the median CPU seconds of each model."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, model in models.items():
            begun = time.process_time()
            job(model, x)
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def decoding(rows: int, tokens: int = 200) -> float:
    """Return milliseconds of CPU for one token in each of the rows."""
    memory, state, x = ours(), None, torch.randn(rows, 1, WIDTH)
    with torch.no_grad():
        for token in range(tokens + 10):
            if token == 10:
                begun = time.process_time()
            _, state, _ = memory(x, state, watch=False)
    return (time.process_time() - begun) / tokens * 1e3


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="two small sizes, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"| batch x length | what | tokens/s | {' | '.join(f'over {name}' for name in THEIRS)} |")
    print(f"|---|---|--:|{'--:|' * len(THEIRS)}")
    for rows, length in SMALL if options.small else SIZES:
        for momentum in (False, True):
            models = contestants(length, momentum)
            for what, job in (("forward and backward", train), ("forward", read)):
                seconds = seconds_of(job, models, torch.randn(rows, length, WIDTH), options.turns)
                mine = seconds[OURS]
                ratios = " | ".join(f"{seconds[n] / mine:.1f}" if n in seconds else "" for n in THEIRS)
                named = f"{what}, momentum" if momentum else what
                print(f"| {rows} x {length} | {named} | {rows * length / mine:,.0f} | {ratios} |", flush=True)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours(), theirs(CHUNK, None))]
    print(f"\nParameters: {counts[0]:,} and {counts[1]:,}.")
    print(f"Decoding a token takes {decoding(1):.2f} ms, and {decoding(16):.2f} ms for 16 rows.")


if __name__ == "__main__":
    main()
