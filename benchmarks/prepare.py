"""Rows a second and peak memory of `prepare` on synthetic conversations, at a quarter of the size and at the whole.

Conversations of two to six turns, a third with a tool call, 5 % near-duplicates and 1 % exact ones, through all steps:
clean, filter, both deduplications, decontamination against 1,000 questions, chat template, tokens, split, Arrow files.
Memory that is constant but for the hashes shows in the last line: what a further row costs.

    python -m benchmarks.prepare [--rows 200000] [--workers 2]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VOCABULARY = 30_000
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "han", "jel", "kor", "lim", "mus", "nar", "pel", "qui", "ros", "ste", "tur")


def words_of(rng: random.Random) -> list[str]:
    """A vocabulary of made-up words."""
    return ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) + rng.choice("aeioust") for _ in range(VOCABULARY)]


def conversations(rows: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield synthetic rows; word frequencies fall as in Zipf's law."""
    rng = random.Random(seed)
    vocabulary = words_of(rng)
    weights = list(itertools.accumulate(1 / (rank + 2) for rank in range(VOCABULARY)))

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(vocabulary, cum_weights=weights, k=rng.randint(low, high)))

    earlier: list[dict[str, Any]] = []
    for row in range(rows):
        chance = rng.random()
        if earlier and chance < 0.06:
            copy = json.loads(json.dumps(rng.choice(earlier)))
            if chance < 0.05:
                copy["messages"][-1]["content"] += " " + text(1, 2)
            yield copy
            continue
        messages = [{"role": "system", "content": "You are a helpful assistant."}]
        for _ in range(rng.randint(1, 3)):
            messages.append({"role": "user", "content": f"{text(8, 40)} {row}?"})
            if rng.random() < 1 / 3:
                call = {"type": "function", "function": {"name": "bash", "arguments": {"command": text(2, 6)}}}
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
                messages.append({"role": "tool", "name": "bash", "content": text(5, 40)})
            messages.append({"role": "assistant", "content": text(30, 120)})
        if len(earlier) < 2000:
            earlier.append({"messages": messages})
        yield {"messages": messages}


def measure(directory: Path, rows: int, workers: int | None) -> dict[str, float]:
    """Prepare the first ``rows`` conversations in a process of its own; return what it took."""
    command = [sys.executable, "-m", "benchmarks.prepare", "--one", str(directory), "--rows", str(rows)]
    command += ["--workers", str(workers)] if workers else []
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def prepare_one(directory: Path, rows: int, workers: int | None) -> dict[str, float]:
    """Run `prepare` here; return seconds, MiB and counts."""
    from agentforge.artifacts import read_manifest
    from agentforge.data.prepare import prepare
    from agentforge.recipe.schema import Recipe

    recipe = Recipe.model_validate(
        {
            "name": f"rows{rows}",
            "output_dir": str(directory / "runs"),
            "model": {"tokenizer": {"vocab_size": 8192, "max_characters": 4_000_000}},
            "data": {
                "mix": [{"dataset": str(directory / "rows.jsonl"), "max_rows": rows}],
                "decontaminate": {"against": [str(directory / "questions.jsonl")]},
                "workers": workers,
            },
        }
    )
    started = time.monotonic()
    metrics = read_manifest(prepare(recipe))["metrics"]
    seconds = time.monotonic() - started
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    source = next(iter(metrics["sources"].values()))
    return {
        "rows": rows,
        "seconds": seconds,
        "cpu": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "mib": own.ru_maxrss / 1024,
        "worker_mib": children.ru_maxrss / 1024,
        "kept": source["rows_kept"],
        "tokens": metrics["train"]["tokens"] + metrics["eval"]["tokens"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--one", type=Path, default=None, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(prepare_one(given.one, given.rows, given.workers)))
        return
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for file, rows in (("rows.jsonl", conversations(given.rows)), ("questions.jsonl", conversations(1000, seed=1))):
            with (directory / file).open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(row) + "\n" for row in rows)
        size = (directory / "rows.jsonl").stat().st_size
        runs = [measure(directory, rows, given.workers) for rows in (given.rows // 4, given.rows)]
    print(f"{size / 2**20:.0f} MiB of JSONL, {given.workers or len(os.sched_getaffinity(0))} processes.\n")
    print("| rows | kept | tokens | seconds | CPU-seconds | rows/s | peak MiB, main process | peak MiB, a worker |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|")
    for run in runs:
        print(
            f"| {run['rows']:,} | {run['kept']:,} | {run['tokens']:,} | {run['seconds']:.0f} | {run['cpu']:.0f} "
            f"| {run['rows'] / run['seconds']:,.0f} | {run['mib']:.0f} | {run['worker_mib']:.0f} |"
        )
    less, more = runs
    grown = (more["mib"] - less["mib"]) * 2**20
    print(
        f"\nFrom {less['rows']:,} to {more['rows']:,} rows the peak grows by {grown / 2**20:.0f} MiB: "
        f"{grown / (more['rows'] - less['rows']):,.0f} bytes a row, of {size / more['rows']:,.0f} bytes of text."
    )


if __name__ == "__main__":
    main()
