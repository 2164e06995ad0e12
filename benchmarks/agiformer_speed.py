"""AGIFORMER's speed against a flat Llama of bytes with as many parameters: of training, and of writing.

Training is forward pass, loss and backward pass of ``--rows`` x ``--context`` bytes, without the optimiser's step.
Writing is greedy, one byte after the other, with each model's own cache, behind a prompt of ``--prompt`` bytes. Models
take turns in one process with one thread (CPU seconds), or on a GPU (wall time, in bf16); each figure is the least of
the turns. The text is the recipe's. The weights are random: they decide nothing here.

    python -m benchmarks.agiformer_speed [--preset tiny] [--context 1024] [--prompt 512] [--turns 3]
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
from transformers import GenerationConfig
from transformers.utils import logging

from agentforge.systems.agiformer.checkpoint_types import BYTES, PRESETS
from agentforge.systems.agiformer.modeling.configuration import AgiformerConfig
from agentforge.systems.agiformer.training.row_optimizer import tables_of
from benchmarks._byte_models import COUNTED, TABLES, make, parameters
from benchmarks.agiformer_bpc import model_config, rows_of, texts

MODELS = ("Llama", "AGIFORMER", f"AGIFORMER{TABLES}", f"AGIFORMER{COUNTED}")


def config_of(preset: str) -> AgiformerConfig:
    """Return the recipe's model, or one of the presets."""
    return model_config() if preset == "tiny" else AgiformerConfig(preset=preset)


def seconds(run: Callable[[], Any], device: str) -> float:
    """Return the time of one run: of the CPU, or on the clock where a GPU does the work."""
    if device == "cpu":
        before = time.process_time()
        run()
        return time.process_time() - before
    torch.cuda.synchronize()
    before = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - before


def train(model: Any, ids: Tensor) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.device.type == "cuda"):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def write(model: Any, prompt: Tensor, count: int) -> None:
    # No end token, or a model might stop early; where the settings have none, `generate` takes the model's own.
    model.generation_config.eos_token_id = None
    settings = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=BYTES)
    with torch.autocast(prompt.device.type, torch.bfloat16, enabled=prompt.device.type == "cuda"):
        made = model.eval().generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    assert made.shape[1] == prompt.shape[1] + count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", choices=["tiny", *PRESETS], default="tiny")
    for name, value in (("rows", 4), ("context", 1024), ("prompt", 512), ("bytes", 64), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    models: dict[str, Any] = {name: make(name, config_of(args.preset)).to(device) for name in MODELS}
    for table in (table for model in models.values() for table in tables_of(model)):
        table.sparse = True  # as the recipe's optimiser has it
    # Real text: of random bytes hardly a context has been counted.
    text, _ = texts(None)
    for model in models.values():
        if hasattr(model, "count"):
            model.count(rows_of(text, args.context))
    ids = rows_of(text, args.context)[: args.rows].to(device)
    prompt = ids[:1, : args.prompt]
    trained: dict[str, list[float]] = {name: [] for name in models}
    written: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(args.turns + 1):  # the first is thrown away
        for name, model in models.items():
            trained[name].append(seconds(lambda: train(model, ids), device))  # noqa: B023  called at once
            written[name].append(seconds(lambda: write(model, prompt, args.bytes), device))  # noqa: B023
    fast = {name: ids.numel() / min(times[1:]) for name, times in trained.items()}
    pen = {name: args.bytes / min(times[1:]) for name, times in written.items()}
    where = "CPU second" if device == "cpu" else f"second of a {torch.cuda.get_device_name()}"
    print(
        f"Bytes a {where}; training with {args.rows} x {args.context} bytes, writing one text behind {args.prompt} "
        "bytes.\n"
    )
    print("| model | parameters | trained | of Llama's | written | of Llama's |\n|---|--:|--:|--:|--:|--:|")
    for name, model in models.items():
        print(
            f"| {name} | {parameters(model)[0]:,} | {fast[name]:,.0f} | {fast[name] / fast['Llama']:.2f} | "
            f"{pen[name]:,.0f} | {pen[name] / pen['Llama']:.2f} |"
        )


if __name__ == "__main__":
    main()
