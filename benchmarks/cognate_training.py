"""Training tokens a second of a Cognate with a single iteration, against a plain Llama of equal parameters.

Forward pass, loss and backward pass, without the optimiser's step, which costs both the same. The Cognate goes the way
of the house's objective: loss from hidden states, no logits. ``plain`` runs each of its layers once, as Llama does;
``trm`` runs the core three times in an iteration, and the default model does so in three iterations. Models take turns
in one process, and each figure is the least of the turns.

    python -m benchmarks.cognate_training [--rows 2] [--tokens 256] [--turns 2] [--shapes small full]
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
from transformers import LlamaConfig, LlamaForCausalLM

from agentforge.systems.cognate.modeling.configuration import CognateConfig, parameter_count
from agentforge.systems.cognate.modeling.loss import summed_loss
from agentforge.systems.cognate.modeling.modeling import CognateForCausalLM

SHAPES: dict[str, dict[str, Any]] = {
    "small": {"vocab_size": 4096, "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2,
              "num_prelude_layers": 4, "memory_head_dim": 32, "gate_rank": 16},
    "full": {},
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "plain, 1 iteration": {"recursion": "plain", "max_recursions": 1},
    "plain, 1 iteration, no memory": {"recursion": "plain", "max_recursions": 1, "memory_layers": []},
    "trm, 1 iteration": {"max_recursions": 1},
    "trm, 3 iterations (the default)": {},
}


def llama_like(config: CognateConfig) -> LlamaForCausalLM:
    """Return a Llama of the same depth, width and vocabulary, whose MLP is wider by what the memory has."""

    def of(width: int) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=width,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            head_dim=config.head_dim,
            tie_word_embeddings=True,
            use_cache=False,
        )

    missing = parameter_count(config) - LlamaForCausalLM(of(config.intermediate_size)).num_parameters()
    wider = round(missing / (3 * config.hidden_size * config.num_hidden_layers))
    return LlamaForCausalLM(of(config.intermediate_size + wider))


def cognate_loss(model: CognateForCausalLM, ids: Tensor) -> Tensor:
    return summed_loss(model.config, model.model.steps(ids, use_cache=False), model.lm_head, ids)[0]


def llama_loss(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    return model(ids, labels=ids).loss


def seconds(model: nn.Module, loss: Callable[[Any, Tensor], Tensor], ids: Tensor) -> float:
    """Return CPU seconds of one forward and backward pass."""
    model.zero_grad(set_to_none=True)
    before = time.process_time()
    loss(model, ids).backward()
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("rows", 2), ("tokens", 256), ("turns", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| shape | model | parameters | tokens per CPU second | of Llama's |\n|---|---|--:|--:|--:|")
    for shape in args.shapes:
        torch.manual_seed(0)
        base = CognateConfig(**SHAPES[shape], **KINDS["plain, 1 iteration"])
        ids = torch.randint(1, base.vocab_size, (args.rows, args.tokens))
        runs: dict[str, tuple[nn.Module, Callable[[Any, Tensor], Tensor]]] = {"Llama": (llama_like(base), llama_loss)}
        for kind, fields in KINDS.items():
            runs[kind] = (CognateForCausalLM(CognateConfig(**SHAPES[shape], **fields)), cognate_loss)
        found: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.turns + 1):  # the first is thrown away
            for name, (model, loss) in runs.items():
                found[name].append(seconds(model.train(), loss, ids))
        best = {name: ids.numel() / min(times[1:]) for name, times in found.items()}
        for name, (model, _) in runs.items():
            count = sum(weight.numel() for weight in model.parameters())
            print(f"| {shape} | {name} | {count:,} | {best[name]:,.0f} | {best[name] / best['Llama']:.2f} |")


if __name__ == "__main__":
    main()
