"""CPU seconds of an SFT step: ours, the plain Trainer of transformers, and TRL's SFTTrainer with its defaults.

One model of 2.4M parameters, the same rows of 256 tokens (40 % of them trained) in the same batches for all three, so
that neither padding nor packing differs: what is measured is the work and the overhead of a step. The three take turns,
for a machine's speed drifts; the figure is the median of all steps of all turns but each turn's first two.

    python benchmarks/sft_step.py [--turns 5] [--steps 12]
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import datasets
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from trl import SFTConfig, SFTTrainer

from agentforge.models.build import from_scratch
from agentforge.recipe.schema import Model, Recipe
from agentforge.trainers.arguments import build_arguments
from agentforge.trainers.batching import PackedRows, training_rows
from agentforge.trainers.guarded_trainer import Guards
from agentforge.trainers.supervised.sft import SupervisedTrainer

VOCABULARY, LENGTH, ROWS, BATCH, TRAINED = 4096, 256, 256, 8, 0.4
CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 192,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 32,
    "tie_word_embeddings": True,
}


class StepTimes(TrainerCallback):
    """CPU seconds of each step, of all threads."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._begun = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.process_time() - self._begun)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a stand-in with the vocabulary's size; no text is tokenised here."""
    words = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="1", unk_token="0")


def rows() -> Dataset:
    """Return rows in which stretches of 8 to 64 tokens are trained and not trained in turn."""
    rng = random.Random(0)
    ids, masks = [], []
    for _ in range(ROWS):
        mask: list[int] = []
        while len(mask) < LENGTH:
            untrained = rng.randint(8, 64)
            mask += [0] * untrained + [1] * round(untrained * TRAINED / (1 - TRAINED))
        ids.append([rng.randrange(2, VOCABULARY) for _ in range(LENGTH)])
        masks.append(mask[:LENGTH])
    return Dataset.from_dict({"input_ids": ids, "assistant_masks": masks})


def contestants(directory: Path, steps: int) -> dict[str, Callable[[], list[float]]]:
    """Return a function for each Trainer that trains ``steps`` steps and returns their CPU seconds."""
    data = rows()
    common = {
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "bf16": False,  # the same precision for all
    }
    recipe = Recipe(
        name="bench", model=Model(config=CONFIG), data={"max_length": LENGTH}, train={"method": "sft", "args": common}
    )
    packed = training_rows(data, max_length=LENGTH, packing=True, masked=True, cache=directory / "rows")

    def run(make: Callable[[Any, StepTimes], Trainer]) -> list[float]:
        times = StepTimes()
        trainer = make(from_scratch(recipe.model, VOCABULARY, seed=0), times)
        trainer.remove_callback(PrinterCallback)  # stdout is the table's
        trainer.train()
        return times.seconds[2:]

    def ours(model: Any, times: StepTimes) -> Trainer:
        arguments = build_arguments(recipe, SFTConfig, directory / "ours", evaluates=False).parent
        arguments.dataset_kwargs = {"skip_prepare_dataset": True}
        collator = PackedRows(0)
        return SupervisedTrainer(
            model,
            arguments,
            collator,
            packed,
            processing_class=tokenizer(),
            callbacks=[times],
            guards=Guards(),
        )

    def plain(model: Any, times: StepTimes) -> Trainer:
        arguments = TrainingArguments(str(directory / "plain"), use_cpu=True, remove_unused_columns=False, **common)
        return Trainer(model, arguments, PackedRows(0), packed, callbacks=[times])

    def trl(model: Any, times: StepTimes) -> Trainer:
        return SFTTrainer(
            model,
            SFTConfig(str(directory / "trl"), use_cpu=True, **common),
            None,
            data,
            processing_class=tokenizer(),
            callbacks=[times],
        )

    return {
        "agentforge": lambda: run(ours),
        "transformers.Trainer": lambda: run(plain),
        "trl.SFTTrainer, defaults": lambda: run(trl),
    }


def main() -> None:
    """Take turns and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as directory:
        runs = contestants(Path(directory), options.steps)
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.turns):
            for name, run in runs.items():
                seconds[name] += run()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print("| Trainer | CPU s/step | ours / it |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.4f} | {medians['agentforge'] / median:.2f} |")


if __name__ == "__main__":
    main()
