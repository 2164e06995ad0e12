"""CPU seconds from a file of conversations to packed rows: `prepare`, TRL's own preparation, axolotl's preprocessing.

The conversations are made of the requests in data/aj/train: a system turn and 2 to 6 requests with what answers them,
tool calls included, drawn anew for each. `--data` takes any file of `messages` instead. All read the same file with the
same tokenizer and the chat template of Qwen2.5, which has no training marks of its own, and use one process each.

agentforge: `prepare` as a user runs it (reading, cleaning, filters, exact and near duplicates, decontamination, tokens,
Arrow files, hashes) and the packing that `train` does. TRL: what `SFTTrainer` does to its data with
`assistant_only_loss` and `packing`; reading the file stands beside it and is not counted. axolotl: what `axolotl
preprocess` does, without reading its configuration, if the package is there; it packs while it trains. Each runs in a
process of its own, in turn; the least CPU seconds of the turns count, those of child processes included.

    python -m benchmarks.prepare_peers [--rows 1000] [--turns 2] [--processes 1] [--data FILE] [--against FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import multiprocessing
import os
import random
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import datasets
import transformers
from datasets import load_dataset
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from agentforge.artifacts import read_manifest
from agentforge.data.prepare import load_prepared, prepare
from agentforge.data.tokenizer import train_tokenizer
from agentforge.models.build import from_scratch
from agentforge.recipe.schema import Model, Recipe
from agentforge.recipe.template_names import template_file
from agentforge.trainers.batching import training_rows

AJ = Path(__file__).parent.parent / "data" / "aj"
LENGTH = 2048
VOCABULARY = 8192


@dataclass(frozen=True)
class Setting:
    """What all contestants are given.

    Attributes:
        data: the file of conversations.
        against: a file or glob that must not be trained on.
        tokenizer: directory, the chat template in it.
        processes: how many each may use.
    """

    data: Path
    against: str
    tokenizer: Path
    processes: int


@dataclass(frozen=True)
class Run:
    """What one preparation took and gave.

    Attributes:
        seconds: CPU time.
        tokens, trained: all tokens, and those that are trained.
        kept: conversations.
        reading: CPU time of reading the file, where ``seconds`` do not hold it.
    """

    seconds: float
    tokens: int
    trained: int
    kept: int
    reading: float | None = None


def conversations(rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield conversations of 2 to 6 requests drawn from those of data/aj/train."""
    rng = random.Random(seed)
    requests: list[list[dict[str, Any]]] = []
    system: dict[str, Any] = {}
    for file in sorted(AJ.glob("train/*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            system, *turns = json.loads(line)["messages"]
            starts = [place for place, turn in enumerate(turns) if turn["role"] == "user"]
            requests += [turns[start:end] for start, end in zip(starts, [*starts[1:], len(turns)], strict=True)]
    for _ in range(rows):
        drawn = rng.sample(requests, rng.randint(2, 6))
        yield {"messages": [system, *(turn for request in drawn for turn in request)]}


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(setting: Setting, directory: Path, checked: bool) -> Run:
    """`prepare` and packing; ``checked`` with deduplication and decontamination."""
    recipe = Recipe.model_validate(
        {
            "name": "bench",
            "output_dir": str(directory),
            "model": {"tokenizer": str(setting.tokenizer)},
            "data": {
                "max_length": LENGTH,
                "mix": [{"dataset": str(setting.data)}],
                "minhash": {"enabled": checked},
                "decontaminate": {"against": [setting.against] if checked else []},
                "eval_fraction": 0,
                "workers": setting.processes,
            },
        }
    )
    begun = cpu_seconds()
    path = prepare(recipe)
    rows = load_prepared(path)["train"]
    training_rows(rows, max_length=LENGTH, packing=True, masked=True, cache=directory / "packed")
    seconds = cpu_seconds() - begun
    metrics = read_manifest(path)["metrics"]
    return Run(seconds, metrics["train"]["tokens"], metrics["train"]["trained_tokens"], metrics["train"]["rows"])


class TimedTrainer(SFTTrainer):
    """TRL's, which notes what the preparation of its data took."""

    seconds = 0.0

    def _prepare_dataset(self, dataset: Any, *given: Any, **named: Any) -> Any:
        begun = cpu_seconds()
        prepared = super()._prepare_dataset(dataset, *given, **named)
        self.seconds = cpu_seconds() - begun
        return prepared


def trl(setting: Setting, directory: Path) -> Run:
    """The preparation in TRL's trainer."""
    tokenizer = AutoTokenizer.from_pretrained(setting.tokenizer)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = from_scratch(
        Model(config={"model_type": "llama", "num_key_value_heads": 1, **shape}), len(tokenizer), seed=0
    )
    begun = cpu_seconds()
    data = load_dataset("json", data_files=str(setting.data), split="train", cache_dir=str(directory))
    reading = cpu_seconds() - begun
    trainer = TimedTrainer(
        model,
        SFTConfig(
            str(directory),
            use_cpu=True,
            bf16=False,
            report_to=[],
            max_length=LENGTH,
            packing=True,
            assistant_only_loss=True,
            dataset_num_proc=setting.processes if setting.processes > 1 else None,
        ),
        train_dataset=data,
        processing_class=tokenizer,
    )
    return replace(_run(trainer.seconds, trainer.train_dataset, len(data)), reading=reading)


def axolotl(setting: Setting, directory: Path) -> Run:
    """`axolotl preprocess` from where its configuration is read: reading, tokens, masks, dropping, saving."""
    os.environ |= {"AXOLOTL_IS_PREPROCESS": "1", "AXOLOTL_DO_NOT_TRACK": "1"}
    from axolotl.utils.data.sft import prepare_datasets
    from axolotl.utils.dict import DictDefault

    tokenizer = AutoTokenizer.from_pretrained(setting.tokenizer)
    source = {
        "path": str(setting.data),
        "ds_type": "json",
        "type": "chat_template",
        "chat_template": "tokenizer_default",
        "field_messages": "messages",
        "message_property_mappings": {"role": "role", "content": "content"},
        "roles_to_train": ["assistant"],
        "train_on_eos": "turn",
    }
    cfg = DictDefault(
        {
            "datasets": [source],
            "dataset_prepared_path": str(directory / "prepared"),
            "is_preprocess": True,
            "dataset_num_proc": setting.processes if setting.processes > 1 else None,
            "sequence_len": LENGTH,
            "sample_packing": True,
            "chat_template": "tokenizer_default",
            "tokenizer_config": str(setting.tokenizer),
            "train_on_inputs": False,
            "val_set_size": 0,
            "seed": 0,
        }
    )
    begun = cpu_seconds()
    rows = prepare_datasets(cfg, tokenizer)[0]
    return _run(cpu_seconds() - begun, rows, len(rows))


def _run(seconds: float, rows: Any, kept: int) -> Run:
    trained = sum(label != -100 for labels in rows["labels"] for label in labels)
    return Run(seconds, sum(map(len, rows["input_ids"])), trained, kept)


Contestant = Callable[[Setting, Path], Run]


def contestants() -> dict[str, Contestant]:
    """Return what is measured, by its name in the table."""
    found: dict[str, Contestant] = {
        "agentforge": lambda setting, directory: ours(setting, directory, checked=True),
        "agentforge without deduplication and decontamination": lambda *given: ours(*given, checked=False),
        f"trl.SFTTrainer {_version('trl')}": trl,
    }
    if importlib.util.find_spec("axolotl") is not None:
        found[f"axolotl preprocess {_version('axolotl')}"] = axolotl
    return found


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def measured(contestant: Contestant, setting: Setting) -> Run:
    """Run a contestant in a process of its own, forked: what is imported is not counted, no cache is shared."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_measure, args=(contestant, setting, theirs))
    child.start()
    theirs.close()
    try:
        run: Run = mine.recv()
    except EOFError:
        raise SystemExit("a contestant failed; its error stands above") from None
    child.join()
    return run


def _measure(contestant: Contestant, setting: Setting, results: Connection) -> None:
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        datasets.config.HF_DATASETS_CACHE = Path(name) / "cache"
        results.send(contestant(setting, Path(name)))


def make_setting(directory: Path, data: Path | None, against: str | None, rows: int, processes: int) -> Setting:
    """Write the conversations, and a tokenizer that has read the first of them, with Qwen2.5's template."""
    file = directory / "rows.jsonl"
    with file.open("w", encoding="utf-8") as out:
        if data is None:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in conversations(rows))
        else:
            with data.open(encoding="utf-8") as lines:
                out.writelines(islice(lines, rows))
    with file.open(encoding="utf-8") as lines:
        tokenizer = train_tokenizer(list(islice(lines, 2000)), VOCABULARY)
    template = template_file("qwen2_5")
    assert template is not None
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    tokenizer.save_pretrained(directory / "tokenizer")
    return Setting(file, against or str(AJ / "heldout" / "*.jsonl"), directory / "tokenizer", processes)


def table(runs: dict[str, Sequence[Run]], rows: int) -> Iterator[str]:
    """Yield the lines of the table; the least of each contestant's turns counts."""
    best = {name: min(turns, key=lambda run: run.seconds) for name, turns in runs.items()}
    first = next(iter(best.values())).seconds
    yield "| | rows kept | tokens | of them trained | reading, CPU s | rest, CPU s | rows/s | tokens/s | times ours |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for name, run in best.items():
        reading = "in the rest" if run.reading is None else f"{run.reading:.2f}"
        yield (
            f"| {name} | {run.kept:,} | {run.tokens:,} | {run.trained:,} | {reading} | {run.seconds:.2f} "
            f"| {rows / run.seconds:,.0f} | {run.tokens / run.seconds:,.0f} | {run.seconds / first:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000, help="conversations; of --data: the first so many")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--data", type=Path, default=None, help="JSONL with messages (none: made from data/aj)")
    parser.add_argument("--against", default=None, help="evaluation file or glob (none: data/aj/heldout)")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as name:
        setting = make_setting(Path(name), given.data, given.against, given.rows, given.processes)
        runs: dict[str, list[Run]] = {who: [] for who in contestants()}
        for _ in range(given.turns):
            for who, contestant in contestants().items():
                runs[who].append(measured(contestant, setting))
        with setting.data.open("rb") as lines:
            rows = sum(1 for _ in lines)
        size = setting.data.stat().st_size
    print(f"{rows:,} conversations, {size / 2**20:.1f} MiB of JSONL, processes for each: {given.processes}.\n")
    print("\n".join(table(runs, rows)))


if __name__ == "__main__":
    main()
