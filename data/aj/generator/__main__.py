"""Write data/aj/train, data/aj/heldout and the files of data/aj/example.

    python -m data.aj.generator [--out DIR] [--rows N]     # from the repository's root

Every row is a function of its category, number and split alone: a shorter run gives the first rows of the full files.
"""

from __future__ import annotations

import argparse
import json
import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from .conversations import Message, converse
from .intents import Split
from .world import FILES, fill

ROWS: dict[Split, dict[str, int]] = {
    "train": {"files": 320, "remote": 260, "agents": 100, "planning": 150, "talk": 70},
    "heldout": {"files": 80, "remote": 60, "agents": 20, "planning": 25},
}


def write_split(out: Path, split: Split, most: int | None, workers: ProcessPoolExecutor) -> None:
    """One JSONL file a category; a later row whose user turns all occurred before is left out."""
    for category, count in ROWS[split].items():
        seeds = range(count if most is None else min(count, most))
        rows: dict[tuple[str, ...], str] = {}
        for messages in workers.map(partial(converse, category, split=split), seeds, chunksize=8):
            rows.setdefault(user_turns(messages), json.dumps({"messages": messages}, ensure_ascii=False))
        path = out / split / f"{category}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{row}\n" for row in rows.values()), encoding="utf-8", newline="\n")


def user_turns(messages: list[Message]) -> tuple[str, ...]:
    return tuple(message["content"] for message in messages if message["role"] == "user")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1], help="directory of train/, heldout/ and example/"
    )
    parser.add_argument("--rows", type=int, help="at most so many rows a file")
    arguments = parser.parse_args()
    with ProcessPoolExecutor() as workers:
        for split in ROWS:
            write_split(arguments.out, split, arguments.rows, workers)
    fill(arguments.out / "example", FILES, random.Random("example"))


if __name__ == "__main__":
    main()
