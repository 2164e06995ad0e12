"""A tiny base, tokenizer and prepared data, made by hand: what `prepare` writes, without its time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from agentforge.artifacts import stage_directory
from agentforge.training_log import read_metrics

VOCABULARY = 64
TINY = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of 64 words that are numbers."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1", unk_token="0")


def make_rows(count: int, seed: int, longest: int = 32) -> list[dict[str, Any]]:
    """Return rows whose tokens count upwards, so that there is something to learn; the second half is trained."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        length, start = rng.randint(6, longest), rng.randrange(2, VOCABULARY)
        ids = [2 + (start + i) % (VOCABULARY - 2) for i in range(length)]
        rows.append(
            {"input_ids": ids, "assistant_masks": [0] * (length // 2) + [1] * (length - length // 2), "source": "made"}
        )
    return rows


def write_prepared(directory: Path, train: list[dict[str, Any]], evaluation: list[dict[str, Any]]) -> None:
    """Write the artefact that the training stage reads."""
    schema = pa.schema(
        {"input_ids": pa.list_(pa.int32()), "assistant_masks": pa.list_(pa.int8()), "source": pa.string()}.items()
    )
    with stage_directory(directory, stage="prepare", recipe={"rows": len(train)}) as work:
        tiny_tokenizer().save_pretrained(work.path / "tokenizer")
        for split, rows in (("train", train), ("eval", evaluation)):
            with (
                pa.OSFile(str(work.path / f"{split}-00000.arrow"), "wb") as file,
                pa.ipc.new_stream(file, schema) as writer,
            ):
                writer.write_table(pa.Table.from_pylist(rows, schema))


def figures(directory: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock and on the machine."""
    clock = ("seconds", "_per_second", "_runtime", "minutes", "mem_allocated", "mem_reserved")
    return [
        {k: v for k, v in line.items() if not k.endswith(clock)} for line in read_metrics(directory / "metrics.jsonl")
    ]
