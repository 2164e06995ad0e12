"""CPU speed of the hybrid: AdambaForCausalLM against transformers' FalconH1 and Bamba of equal shape.

FalconH1 has the same parameters, with its default chunk of 256 and with one of 32, which is its fastest here. Bamba has
the same attention, the same mixers and as much MLP, in twice as many layers (its layers have either mixer, and half the
MLP). They take turns, for a machine's speed drifts; a figure is of the median of the turns' CPU seconds.

    python -m benchmarks.adamba_hybrid [--turns 3] [--small]
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
import transformers
from torch import Tensor
from transformers import BambaConfig, BambaForCausalLM, DynamicCache, FalconH1Config, FalconH1ForCausalLM

from agentforge.systems.adamba.modeling.configuration import AdambaConfig
from agentforge.systems.adamba.modeling.modeling import AdambaForCausalLM

VOCABULARY, PROMPT, TOKENS = 1024, 32, 32
SIZES = ((128, 4, 8, 256), (256, 4, 8, 256), (256, 4, 8, 60), (512, 8, 2, 512))  # hidden, layers, batch, length
SMALL = ((128, 4, 8, 256), (256, 4, 2, 60))
OURS, OTHERS = "agentforge", ("FalconH1", "FalconH1, chunk 32", "Bamba")
Job = Callable[[Any, Tensor], Callable[[], None]]


def shape_of(hidden: int, layers: int) -> dict[str, Any]:
    """Falcon-H1's proportions at this width."""
    head = 32
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // head,
        "num_key_value_heads": hidden // head // 2,
        "mamba_n_heads": 2 * hidden // head,
        "mamba_d_head": head,
        "mamba_d_state": 64,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 256,
        "tie_word_embeddings": True,
        "pad_token_id": None,
    }


def contestants(hidden: int, layers: int) -> dict[str, Any]:
    """Return the models by the names of the table's columns."""
    shape = shape_of(hidden, layers)
    hybrid = shape | {"mamba_d_ssm": 2 * hidden}
    bamba = shape | {"num_hidden_layers": 2 * layers, "intermediate_size": 2 * hidden, "mamba_expand": 2}
    torch.manual_seed(0)
    models = (
        AdambaForCausalLM(AdambaConfig(**hybrid)),
        FalconH1ForCausalLM(FalconH1Config(**hybrid)),
        FalconH1ForCausalLM(FalconH1Config(**hybrid | {"mamba_chunk_size": 32})),
        BambaForCausalLM(BambaConfig(**bamba, attn_layer_indices=list(range(1, 2 * layers, 2)))),
    )
    return dict(zip((OURS, *OTHERS), models, strict=True))


def train(model: Any, ids: Tensor) -> Callable[[], None]:
    """Return a forward and backward pass."""
    model.train()

    def work() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()

    return work


def read(model: Any, ids: Tensor) -> Callable[[], None]:
    """Return a forward pass."""
    model.eval()

    @torch.no_grad()
    def work() -> None:
        model(input_ids=ids, use_cache=False)

    return work


def write(model: Any, ids: Tensor) -> Callable[[], None]:
    """Return the decoding of one token after the other, behind a prompt that is already read."""
    cache = DynamicCache(config=model.eval().config)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache, use_cache=True)

    @torch.no_grad()
    def work() -> None:
        for _ in range(TOKENS):
            model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)

    return work


def seconds_of(job: Job, models: dict[str, Any], ids: Tensor, turns: int) -> dict[str, float]:
    """Return the median CPU seconds of each model."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(turns + 1):
        for name, model in models.items():
            work = job(model, ids)
            begun = time.process_time()
            work()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="two small sizes, to see that it runs")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    print(f"| hidden, layers | batch x length | what | tokens/s | {' | '.join(f'over {o}' for o in OTHERS)} |")
    print(f"|---|---|---|--:|{'--:|' * len(OTHERS)}")
    for hidden, layers, batch, length in SMALL if options.small else SIZES:
        models = contestants(hidden, layers)
        ids = torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(0))
        jobs: list[tuple[str, Job, Tensor, int]] = [
            ("train", train, ids, length),
            ("read", read, ids, length),
            ("write", write, ids[:, :PROMPT], TOKENS),
            ("write", write, ids[:1, :PROMPT], TOKENS),
        ]
        for what, job, given, count in jobs:
            seconds = seconds_of(job, models, given, options.turns)
            speed = len(given) * count / seconds[OURS]
            ratios = " | ".join(f"{seconds[name] / seconds[OURS]:.2f}" for name in OTHERS)
            print(f"| {hidden}, {layers} | {len(given)} x {count} | {what} | {speed:,.0f} | {ratios} |", flush=True)
    counts = ", ".join(f"{name} {sum(p.numel() for p in model.parameters()):,}" for name, model in models.items())
    print(f"\nParameters at the last size: {counts}.")


if __name__ == "__main__":
    main()
