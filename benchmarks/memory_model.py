"""Peak memory of training steps on a CPU, beside what `plan` expects: a grid of small models and of ways to train them.

Each cell takes two steps of the trainer that `train` uses, in fp32. Its peak is the process's as the kernel knows it,
less what the process held before the model was made. glibc is told to give freed blocks back at once, as a
GPU's allocator can use them again at once. `plan`'s figure is without the runtime's overhead. The goal is 15 %.

    python -m benchmarks.memory_model
"""

from __future__ import annotations

import logging
import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

GOAL = 0.15
LLAMA = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
}
QWEN3 = {**LLAMA, "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True}
WIDE = {**LLAMA, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16}
WIDE["num_key_value_heads"] = 4
VOCABULARY = {**LLAMA, "vocab_size": 49152, "num_hidden_layers": 3}
HYBRID = {
    **LLAMA,
    "model_type": "falcon_h1",
    "num_hidden_layers": 4,
    "mamba_d_ssm": 384,
    "mamba_n_heads": 6,
    "mamba_d_head": 64,
    "mamba_d_state": 32,
    "mamba_chunk_size": 64,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 4096, "n_embd": 384, "n_layer": 6, "n_head": 6, "n_positions": 512}
# Without a fused kernel, dropout in the attention keeps every row's square of probabilities.
GPT2 |= {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "bos_token_id": 1, "eos_token_id": 1}
LORA = {"r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}
MUON: dict[str, Any] = {"name": "mugrokfast", "options": {"grokfast_lambda": 0.5}}

# config, rows, tokens in a row, `train`, whether layers are computed again, micro-batches of a step
Cell = tuple[dict[str, Any], int, int, dict[str, Any], bool, int]
GRID: dict[str, Cell] = {
    "llama": (LLAMA, 4, 256, {"method": "pretrain"}, False, 1),
    "llama, rows of 1024": (LLAMA, 2, 1024, {"method": "pretrain"}, False, 1),
    "llama, rows of 1024, recomputing": (LLAMA, 2, 1024, {"method": "pretrain"}, True, 1),
    "llama, two micro-batches": (LLAMA, 4, 256, {"method": "pretrain"}, False, 2),
    "llama, wide": (WIDE, 2, 256, {"method": "pretrain"}, False, 1),
    "llama, wide, mugrokfast": (WIDE, 2, 256, {"method": "pretrain", "optimizer": MUON}, False, 1),
    "llama, wide, average of weights": (WIDE, 2, 256, {"method": "pretrain", "ema": 0.99}, False, 1),
    "llama, 49,152 tokens": (VOCABULARY, 4, 256, {"method": "pretrain"}, False, 1),
    "llama, 49,152 tokens, sft": (VOCABULARY, 4, 256, {"method": "sft"}, False, 1),
    "qwen3": (QWEN3, 4, 256, {"method": "pretrain"}, False, 1),
    "qwen3, LoRA": (QWEN3, 4, 512, {"method": "sft", "lora": LORA}, False, 1),
    "qwen3, LoRA with dropout": (QWEN3, 4, 512, {"method": "sft", "lora": {**LORA, "lora_dropout": 0.1}}, False, 1),
    "qwen3, LoRA, recomputing": (QWEN3, 4, 1024, {"method": "sft", "lora": LORA}, True, 1),
    "falcon_h1": (HYBRID, 4, 256, {"method": "pretrain"}, False, 1),
    "gpt2 (no table)": (GPT2, 4, 256, {"method": "pretrain"}, False, 1),
}


def recipe_of(cell: Cell) -> Any:
    """Return a cell as a recipe."""
    from agentforge.recipe.schema import Recipe

    config, rows, length, train, recompute, micro_batches = cell
    args = {
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": micro_batches,
        "gradient_checkpointing": recompute,
        "max_steps": 2,
        "save_strategy": "no",
        "bf16": False,
    }
    return Recipe.model_validate(
        {
            "name": "cell",
            "model": {"config": config, "dtype": "float32"},
            "data": {"max_length": length},
            "train": {**train, "args": args},
        }
    )


def measured(name: str) -> int:
    """Take two steps; return the bytes at the peak beyond those before the model was made."""
    from agentforge.trainers.trial_steps import take_steps

    peak = take_steps(recipe_of(GRID[name]), 2, for_memory=2).peak
    assert peak is not None, "only Linux tells the peak of a process"
    return peak


def estimated(name: str) -> float:
    """Return the bytes that `plan` expects, the runtime's own left out."""
    from agentforge.planning.memory import estimate_memory

    memory = estimate_memory(recipe_of(GRID[name]))
    return memory.total() - memory.overhead


def main() -> None:
    import datasets
    import transformers

    from agentforge.planning.parameters import count_parameters
    from agentforge.planning.shapes import shape_of
    from agentforge.trainers.trial_steps import take_steps

    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    # Tiny trainings first bring in all that a process reads once: libraries, kernels, tokenizers.
    for method in ("pretrain", "sft"):
        take_steps(recipe_of((LLAMA, 1, 16, {"method": method}, False, 1)), 2, for_memory=2)
    print("| model and training | parameters | tokens of a micro-batch | peak, MiB | `plan`, MiB | off by |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, (_, rows, length, *_) in GRID.items():
        peak, expected = measured(name), estimated(name)
        total = count_parameters(shape_of(recipe_of(GRID[name]))).total
        sizes = f"{total / 1e6:.1f} M | {rows * length:,} | {peak / 2**20:,.0f} | {expected / 2**20:,.0f}"
        print(f"| {name} | {sizes} | {expected / peak - 1:+.0%} |", flush=True)
        if abs(expected / peak - 1) > GOAL:
            raise SystemExit(f"{name} is off by more than {GOAL:.0%}")


if __name__ == "__main__":
    main()
