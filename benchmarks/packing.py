"""Packing: how full the rows are, and how far a packed document's loss is from that of the document alone.

    python benchmarks/packing.py

The lengths are log-normal (median 180 tokens, cut at 2,048), as those of conversations are. The loss of every token of
64 documents is computed packed, by the collator that training uses, and one document at a time without any packing.
"""

from __future__ import annotations

import math
import os
import random
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import datasets
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import PreTrainedModel

from agentforge.models.build import from_scratch
from agentforge.recipe.schema import Model
from agentforge.trainers.batching import IGNORED, make_collator, packing_fill, training_rows

VOCABULARY = 1024
CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def documents(count: int, longest: int) -> Dataset:
    """Return rows of random tokens with log-normal lengths; 2 of 3 tokens are trained."""
    rng = random.Random(0)
    lengths = [min(longest, max(4, round(rng.lognormvariate(math.log(180), 0.9)))) for _ in range(count)]
    ids = [[rng.randrange(2, VOCABULARY) for _ in range(length)] for length in lengths]
    return Dataset.from_dict({"input_ids": ids, "assistant_masks": [[int(i % 3 > 0) for i in row] for row in ids]})


def token_losses(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the cross-entropy of each token `(B, T-1)`, 0 where it is not trained."""
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")


def difference(kind: str, attention: str, directory: Path) -> float:
    """Return the largest difference of a token's loss, packed and alone."""
    model = from_scratch(
        Model(config={"model_type": kind, **CONFIG}, attn_implementation=attention), VOCABULARY, seed=0
    )
    model.eval()
    rows, cache = documents(64, 512), directory / f"{kind}-{attention}"
    packed = training_rows(rows, max_length=512, packing=True, masked=True, cache=cache)
    collate = make_collator(model, 0, packing=True)
    together = token_losses(model, collate([packed[i] for i in range(len(packed))]))
    largest = 0.0
    for number in range(len(packed)):
        row, start = packed[number], 0
        for length in row["seq_lengths"]:
            inside = slice(start, start + length)
            document = {name: torch.tensor([row[name][inside]]) for name in ("input_ids", "labels")}
            apart = token_losses(model, document)[0]
            largest = max(largest, float((together[number, start : start + length - 1] - apart).abs().max()))
            start += length
    return largest


def main() -> None:
    """Print two markdown tables."""
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        print("| rows | max_length | packed rows | fill |\n|---|---|---|---|")
        for count, longest in ((1_000, 2048), (20_000, 512), (20_000, 2048)):
            cache = directory / f"{count}-{longest}"
            packed = training_rows(
                documents(count, longest), max_length=longest, packing=True, masked=True, cache=cache
            )
            print(f"| {count:,} | {longest:,} | {len(packed):,} | {packing_fill(packed, longest):.4f} |")
        print("\n| model | attention | largest difference of a token's loss |\n|---|---|---|")
        for kind in ("qwen3", "llama"):
            for attention in ("sdpa", "eager"):
                print(f"| {kind} | {attention} | {difference(kind, attention, directory):.1e} |")


if __name__ == "__main__":
    main()
