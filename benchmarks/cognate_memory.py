"""CPU speed of the memory layer, forward and backward, against lucidrains' titans-pytorch 0.5.5 of equal size.

    python -m benchmarks.cognate_memory [--turns 5] [--small]

Its `NeuralMemory` has the same width, heads, batch and length; a linear memory model without residual, SiLU and
normalised queries and keys. What differs:

- Ours corrects every token's error on the memory as the token before it has left it. Theirs takes the errors of a whole
  *batch* of tokens on the same memory, and changes the memory once a chunk, with one decay for all tokens of it. So it is
  measured twice: errors on the memory of the chunk before (batch = chunk = 64), which is the nearest to ours, and all
  errors on the memory of the row's beginning (its default), which is less work than any delta rule.
- Ours has three short convolutions. Theirs has a learned first memory; it pools each chunk for its decay.
- Its MLP of two layers, the default memory model, is left out: it is slower still.

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
SIZES = ((16, 128), (4, 512), (2, 2048), (1, 4096))  # batch, length
SMALL = ((4, 128), (1, 512))
OURS, WITH_MOMENTUM = "agentforge", "agentforge, momentum"
NEAREST, DEFAULT, THEIR_MOMENTUM = "titans, batch = chunk", "titans, one batch", "titans, batch = chunk, momentum"


def ours(*, momentum: bool = False) -> nn.Module:
    config = CognateConfig(
        hidden_size=WIDTH, memory_heads=HEADS, memory_head_dim=DIM, memory_momentum=momentum, vocab_size=64
    )
    return NeuralMemory(config)


def theirs(batch_size: int | None, *, momentum: bool = False) -> nn.Module:
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
        chunk_size=CHUNK,
        batch_size=batch_size,
        model=MemoryMLP(DIM, depth=1),
        momentum=momentum,
        activation=nn.SiLU(),
        qk_rmsnorm=True,
        mem_model_norm_add_residual=False,
    )


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
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="two small sizes, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = {OURS: ours(), NEAREST: theirs(CHUNK), DEFAULT: theirs(None)}
    models |= {WITH_MOMENTUM: ours(momentum=True), THEIR_MOMENTUM: theirs(CHUNK, momentum=True)}
    print(
        "| batch x length | what | tokens/s | faster than batch = chunk | than one batch | momentum: tokens/s | faster |"
    )
    print("|---|---|--:|--:|--:|--:|--:|")
    for rows, length in SMALL if options.small else SIZES:
        x = torch.randn(rows, length, WIDTH)
        for what, job in (("forward and backward", train), ("forward", read)):
            seconds = seconds_of(job, models, x.detach().clone(), options.turns)
            speed, slower = rows * length / seconds[OURS], rows * length / seconds[WITH_MOMENTUM]
            nearest, default = seconds[NEAREST] / seconds[OURS], seconds[DEFAULT] / seconds[OURS]
            print(
                f"| {rows} x {length} | {what} | {speed:,.0f} | {nearest:.1f} | {default:.1f} | {slower:,.0f} "
                f"| {seconds[THEIR_MOMENTUM] / seconds[WITH_MOMENTUM]:.1f} |",
                flush=True,
            )
    counts = [sum(p.numel() for p in models[name].parameters()) for name in (OURS, NEAREST)]
    print(f"\nParameters: {counts[0]:,} and {counts[1]:,}.")
    print(f"Decoding a token takes {decoding(1):.2f} ms, and {decoding(16):.2f} ms for 16 rows.")


if __name__ == "__main__":
    main()
